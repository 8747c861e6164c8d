package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// script is a transcript with the files that it uses, as one txtar archive:
//
//	# prose, for whoever reads it as documentation
//	$ sovmesh --context fra-1 job run job.yaml --wait
//	what it prints, stdout and stderr as a terminal shows them
//	[exit 20]
//
//	-- job.yaml --
//	...
//
// A line that begins with "> " goes on with the command above it. All commands
// of a script run in one shell, so variables stay and & works; what was put in
// the background is ended, gently, when the script is over. Output reaches until
// the next command or prose; blank lines around it do not count. Words that
// differ from run to run are replaced, see scrubber.
type script struct {
	blocks []*block
	files  []txtar.File
}

// block is a paragraph of prose, or a command and what it does.
type block struct {
	prose   string
	command string
	output  string
}

func parseScript(data []byte) (*script, error) {
	a := txtar.Parse(data)
	s := &script{files: a.Files}
	var now *block
	for i, line := range strings.Split(strings.TrimRight(string(a.Comment), "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "# ") || line == "#":
			if now == nil || now.command != "" {
				now = &block{}
				s.blocks = append(s.blocks, now)
			}
			now.prose += line + "\n"
		case strings.HasPrefix(line, "$ "):
			now = &block{command: line[2:]}
			s.blocks = append(s.blocks, now)
		case strings.HasPrefix(line, "> ") && now != nil && now.command != "" && now.output == "":
			now.command += "\n" + line[2:]
		case now != nil && now.command != "":
			now.output += line + "\n"
		case line == "":
			now = nil
		default:
			return nil, fmt.Errorf("line %d belongs to no command", i+1)
		}
	}
	for _, b := range s.blocks {
		b.output = trimBlank(b.output)
	}
	return s, nil
}

func trimBlank(s string) string {
	if s = strings.Trim(s, "\n"); s != "" {
		s += "\n"
	}
	return s
}

func (s *script) format() []byte {
	var b bytes.Buffer
	for i, k := range s.blocks {
		if i > 0 && (k.prose != "" || s.blocks[i-1].prose == "" && s.blocks[i-1].output != "") {
			b.WriteString("\n")
		}
		b.WriteString(k.prose)
		if k.command != "" {
			fmt.Fprintf(&b, "$ %s\n%s", strings.ReplaceAll(k.command, "\n", "\n> "), k.output)
		}
	}
	if len(s.files) > 0 {
		b.WriteString("\n")
	}
	return txtar.Format(&txtar.Archive{Comment: b.Bytes(), Files: s.files})
}

// play runs all commands and puts what they printed into the blocks.
func (s *script) play(ctx context.Context, bin, dir string) error {
	for _, f := range s.files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			return err
		}
	}
	results := filepath.Join(dir, ".results")
	if err := os.Mkdir(results, 0o700); err != nil {
		return err
	}
	if err := s.shell(ctx, bin, dir, results); err != nil {
		return err
	}
	scrub := newScrubber(dir)
	for i, b := range s.blocks {
		if b.command == "" {
			continue
		}
		out, err := os.ReadFile(filepath.Join(results, strconv.Itoa(i)))
		if err != nil {
			return fmt.Errorf("the shell did not get as far as %q", b.command)
		}
		exit, err := os.ReadFile(filepath.Join(results, strconv.Itoa(i)+".exit"))
		if err != nil {
			return fmt.Errorf("%q did not end; until then it printed:\n%s", b.command, out)
		}
		text := scrub.text(string(out))
		if text = trimBlank(text); strings.HasPrefix(text, "$ ") || strings.Contains("\n"+text, "\n# ") || strings.Contains(text, "\n$ ") {
			return fmt.Errorf("%q prints what a script takes for a command or prose:\n%s", b.command, text)
		}
		code := strings.TrimSpace(string(exit))
		if code == strconv.Itoa(exitAwaited) {
			return fmt.Errorf("%q waited in vain:\n%s", b.command, text)
		}
		if code != "0" {
			text += "[exit " + code + "]\n"
		}
		b.output = text
	}
	return nil
}

// shell runs the commands in one shell. It gets a process group of its own, so
// that nothing of it stays when it takes too long.
func (s *script) shell(ctx context.Context, bin, dir, results string) error {
	var program bytes.Buffer
	fmt.Fprintln(&program, "BACKGROUND=")
	for i, b := range s.blocks {
		if b.command == "" {
			continue
		}
		to := filepath.Join(results, strconv.Itoa(i))
		fmt.Fprintf(&program, "{\n%s\n} >'%s' 2>&1\necho $? >'%s.exit'\n", b.command, to, to)
		if strings.HasSuffix(b.command, "&") {
			fmt.Fprintln(&program, `BACKGROUND="$! $BACKGROUND"`)
		}
	}
	fmt.Fprintln(&program, "for p in $BACKGROUND; do kill $p 2>/dev/null; done\nwait")
	path := filepath.Join(results, "script.sh")
	if err := os.WriteFile(path, program.Bytes(), 0o600); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "/bin/sh", path)
	c.Dir = dir
	law, err := filepath.Abs("../placement/residency/law")
	if err != nil {
		return err
	}
	c.Env = []string{"LAW=" + law, "HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "TMPDIR=" + results, "PATH=" + bin + ":/usr/local/bin:/usr/bin:/bin", "TZ=UTC", "LC_ALL=C"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	out, err := c.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
	if len(out) > 0 {
		return fmt.Errorf("the shell said: %s", out)
	}
	if ctx.Err() != nil {
		return nil // the blocks show which command did not end
	}
	return err
}

func TestScriptFormat(t *testing.T) {
	const text = `# A story
# of two lines.
$ echo one
> echo two
one

two

$ false
[exit 1]

# More.
$ true

-- file --
content
`
	s, err := parseScript([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(s.format()); got != text {
		t.Errorf("parsed and written again it is:\n%s", got)
	}
	if b := s.blocks[1]; b.command != "echo one\necho two" || b.output != "one\n\ntwo\n" {
		t.Errorf("the first command is %+v", b)
	}
	if _, err := parseScript([]byte("no command\n")); err == nil {
		t.Error("output of no command was taken")
	}
}
