package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
)

const lawHint = "give the folder of the tables, or a .zip, .tar or .tar.gz of it"

// readTables reads the CSV tables of a law pack from a folder or an archive.
// Folders inside an archive are ignored; together the tables are bounded.
func readTables(name string) (map[string][]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, inputFile(err, "check the path")
	}
	t := tables{}
	switch lower := strings.ToLower(name); {
	case info.IsDir():
		err = t.folder(name)
	case strings.HasSuffix(lower, ".zip"):
		err = t.zip(name)
	case strings.HasSuffix(lower, ".tar"), strings.HasSuffix(lower, ".tar.gz"), strings.HasSuffix(lower, ".tgz"):
		err = t.tar(name, !strings.HasSuffix(lower, ".tar"))
	default:
		err = errors.New(name + " is neither a folder nor an archive")
	}
	if err == nil && len(t) == 0 {
		err = errors.New(name + " holds no .csv table")
	}
	var known *api.InputError
	if err != nil && !errors.As(err, &known) {
		err = inputFile(err, lawHint)
	}
	return t, err
}

type tables map[string][]byte

func (t tables) size() (n int64) {
	for _, data := range t {
		n += int64(len(data))
	}
	return n
}

func (t tables) add(name string, r io.Reader) error {
	base := path.Base(filepath.ToSlash(name))
	if !strings.HasSuffix(base, ".csv") || strings.HasPrefix(base, ".") {
		return nil
	}
	if _, twice := t[base]; twice {
		return fmt.Errorf("there are two tables %s", base)
	}
	data, err := readAll(r, name, api.MaxLawBytes-t.size())
	if err != nil {
		return err
	}
	t[base] = data
	return nil
}

func (t tables) folder(name string) error {
	files, err := filepath.Glob(filepath.Join(name, "*.csv"))
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := readBounded(f, api.MaxLawBytes)
		if err != nil {
			return err
		}
		if err := t.add(f, bytes.NewReader(data)); err != nil {
			return err
		}
	}
	return nil
}

func (t tables) zip(name string) error {
	z, err := zip.OpenReader(name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.FileInfo().IsDir() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("read %s in %s: %w", f.Name, name, err)
		}
		err = t.add(f.Name, r)
		_ = r.Close() // only read
		if err != nil {
			return err
		}
	}
	return nil
}

func (t tables) tar(name string, compressed bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	if compressed {
		if r, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		case h.Typeflag != tar.TypeReg:
			continue
		}
		if err := t.add(h.Name, archive); err != nil {
			return err
		}
	}
}
