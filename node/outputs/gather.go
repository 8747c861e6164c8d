package outputs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sovmesh/sovmesh/placement"
)

// looks bounds how many names are looked at for each file that may be kept, and
// looksMore is added to that: directories, and what cannot be kept.
const (
	looks     = 4
	looksMore = 1000
)

// gatherer walks through what a task left.
type gatherer struct {
	ctx  context.Context
	root *os.Root
	most placement.Outputs
	list kept
	size int64 // of what is kept
	seen int   // names that were looked at
	next int   // number in dirKept
}

// gather keeps the files below dirFiles. An error is of the node's own: whatever
// is wrong with what lies there is left out.
func gather(ctx context.Context, root *os.Root, most placement.Outputs) (*kept, error) {
	g := &gatherer{ctx: ctx, root: root, most: most, list: kept{OutputList: placement.OutputList{Files: []placement.Output{}}}}
	if err := g.walk(""); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	order := make([]int, len(g.list.Files))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(g.list.Files[a].Name, g.list.Files[b].Name) })
	sorted := kept{OutputList: g.list.OutputList, Numbers: make([]int, 0, len(order))}
	sorted.Files = make([]placement.Output, 0, len(order))
	for _, i := range order {
		sorted.Files, sorted.Numbers = append(sorted.Files, g.list.Files[i]), append(sorted.Numbers, g.list.Numbers[i])
	}
	return &sorted, nil
}

// errEnough ends the walk: there are more names than are looked at.
var errEnough = errors.New("enough")

// leave notes something that is not kept; the first reason is told.
func (g *gatherer) leave(format string, args ...any) {
	if g.list.LeftOut++; g.list.Why == "" {
		g.list.Why = fmt.Sprintf(format, args...)
	}
}

// walk goes through a directory, by its name below dirFiles; "" is that itself.
func (g *gatherer) walk(dir string) error {
	names, more, err := g.names(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		if err := g.look(path.Join(dir, name)); err != nil {
			return err
		}
	}
	if more {
		g.leave("more than %d names", looks*g.most.Files+looksMore)
		return errEnough
	}
	return nil
}

// names are those in a directory, in order, as many as may still be looked at.
func (g *gatherer) names(dir string) (names []string, more bool, err error) {
	// Not to wait for the other end, should it be a pipe by now.
	f, err := g.root.OpenFile(path.Join(dirFiles, dir), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if dir == "" {
			return nil, false, err
		}
		g.leave("a directory cannot be read")
		return nil, false, nil
	}
	defer f.Close()
	left := looks*g.most.Files + looksMore - g.seen
	for len(names) <= left {
		some, err := f.Readdirnames(256)
		names = append(names, some...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			g.leave("a directory cannot be read")
			break
		}
	}
	if more = len(names) > left; more {
		names = names[:left]
	}
	g.seen += len(names)
	slices.Sort(names)
	return names, more, nil
}

// look keeps one file, or goes into a directory.
func (g *gatherer) look(rel string) error {
	info, err := g.root.Lstat(path.Join(dirFiles, rel))
	switch {
	case !placement.OutputName(rel):
		g.leave("a name is no printable text of at most %d bytes in %d parts", placement.MaxOutputName, placement.MaxOutputParts)
	case err != nil:
		g.leave("a file cannot be read")
	case info.IsDir():
		return g.walk(rel)
	case !info.Mode().IsRegular():
		g.leave("something is no regular file: a link, a pipe, a socket or a device")
	case len(g.list.Files) >= g.most.Files:
		g.leave("more than %d files", g.most.Files)
	case info.Size() > int64(g.most.Max)-g.size:
		g.leave("more than %s", g.most.Max)
	default:
		return g.keep(rel)
	}
	return nil
}

// keep gives a file a number of ours, and then only opens it: what lies there by
// then may be something else than what was looked at.
func (g *gatherer) keep(rel string) error {
	number := g.next
	at := path.Join(dirKept, strconv.Itoa(number))
	if err := g.root.Link(path.Join(dirFiles, rel), at); err != nil {
		g.leave("a file cannot be read")
		return nil
	}
	g.next++
	out, why, err := g.hash(at)
	if err != nil {
		return err
	}
	if why != "" {
		g.leave("%s", why)
		return g.root.Remove(at)
	}
	out.Name = rel
	g.size += out.Size
	g.list.Files, g.list.Numbers = append(g.list.Files, out), append(g.list.Numbers, number)
	return nil
}

// hash reads what lies under a number: no more than it had when it was opened.
func (g *gatherer) hash(at string) (out placement.Output, why string, err error) {
	info, err := g.root.Lstat(at)
	if err != nil {
		return out, "", err
	}
	if !info.Mode().IsRegular() {
		return out, "something is no regular file: a link, a pipe, a socket or a device", nil
	}
	f, err := g.root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return out, "a file cannot be read", nil
	}
	if err != nil {
		return out, "", err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return out, "", err
	}
	if out.Size = info.Size(); out.Size > int64(g.most.Max)-g.size {
		return out, fmt.Sprintf("more than %s", g.most.Max), nil
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(reader{g.ctx, f}, out.Size+1))
	if g.ctx.Err() != nil {
		return out, "", g.ctx.Err()
	}
	if err != nil {
		return out, "a file cannot be read", nil
	}
	if n != out.Size {
		return out, "a file changed while it was read", nil
	}
	out.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return out, "", nil
}

// reader ends with a context.
type reader struct {
	ctx context.Context // of the one read
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
