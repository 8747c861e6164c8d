package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// Files is where a store keeps its bytes: a directory, or memory in a simulation.
type Files interface {
	// Open gives a file for reading and writing, made if it is not there.
	Open(name string) (File, error)
	// Read gives a small file; os.ErrNotExist if it is not there.
	Read(name string) ([]byte, error)
	// Replace writes a small file in one step, and durably.
	Replace(name string, data []byte) error
}

// File is one file. A write beyond the end leaves zeros before it.
type File interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Dir keeps the files in one directory, made if it is not there.
func Dir(path string) Files { return dir(path) }

type dir string

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d dir) Open(name string) (File, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("make the ledger directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the ledger file: %w", err)
	}
	return osFile{f}, nil
}

func (d dir) Read(name string) ([]byte, error) { return os.ReadFile(filepath.Join(string(d), name)) }

func (d dir) Replace(name string, data []byte) error {
	path := filepath.Join(string(d), name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	parent, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// Under keeps the files among those of another, each under a name that begins
// with the prefix.
func Under(files Files, prefix string) Files { return prefixed{files, prefix} }

type prefixed struct {
	files  Files
	prefix string
}

func (p prefixed) Open(name string) (File, error)   { return p.files.Open(p.prefix + name) }
func (p prefixed) Read(name string) ([]byte, error) { return p.files.Read(p.prefix + name) }
func (p prefixed) Replace(name string, data []byte) error {
	return p.files.Replace(p.prefix+name, data)
}

// Memory keeps the files in memory, for tests and simulations: they outlive a
// [Store.Close] and nothing else.
func Memory() Files { return &memory{files: map[string]*memoryFile{}} }

type memory struct {
	mu    sync.Mutex
	files map[string]*memoryFile // guarded by mu
}

type memoryFile struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

func (m *memory) file(name string, create bool) *memoryFile {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil && create {
		m.files[name] = &memoryFile{}
	}
	return m.files[name]
}

func (m *memory) Open(name string) (File, error) { return m.file(name, true), nil }

func (m *memory) Read(name string) ([]byte, error) {
	f := m.file(name, false)
	if f == nil {
		return nil, os.ErrNotExist
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]byte(nil), f.data...), nil
}

func (m *memory) Replace(name string, data []byte) error {
	f := m.file(name, true)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = append([]byte(nil), data...)
	return nil
}

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.grow(off + int64(len(p)))
	return copy(f.data[off:], p), nil
}

// grow makes the file at least so long.
func (f *memoryFile) grow(size int64) {
	if more := size - int64(len(f.data)); more > 0 {
		f.data = append(f.data, make([]byte, more)...)
	}
}

func (f *memoryFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.data)), nil
}

func (f *memoryFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.grow(size)
	f.data = f.data[:size]
	return nil
}

func (f *memoryFile) Sync() error  { return nil }
func (f *memoryFile) Close() error { return nil }
