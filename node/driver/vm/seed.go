//go:build linux

package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/kdomanski/iso9660"

	"github.com/sovmesh/sovmesh/node/runner"
)

// maxUserData bounds what a job may hand to its guest at the start, in bytes.
const maxUserData = 1 << 20

// seed is the disk by which cloud-init learns what the guest is to be: the
// NoCloud source, an ISO 9660 file system with the label "cidata". Without
// user-data there is still one: its instance-id tells the guest who it is.
// https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
func seed(s runner.Spec) ([]byte, error) {
	if err := checkUserData(s.Setup.CloudInit); err != nil {
		return nil, refuse(s, "correct cloud_init; it begins with #cloud-config or #!", "its cloud_init is not usable: %v", err)
	}
	if err := checkYAML(s.Setup.CloudNetwork); err != nil {
		return nil, refuse(s, "correct cloud_network", "its cloud_network is not usable: %v", err)
	}
	w, err := iso9660.NewWriter()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Cleanup() }()
	user := s.Setup.CloudInit
	if user == "" {
		user = "#cloud-config\n{}\n"
	}
	err = errors.Join(
		w.AddFile(strings.NewReader(user), "user-data"),
		w.AddFile(bytes.NewReader(metaData(s)), "meta-data"),
	)
	if s.SecretsDir != "" {
		err = errors.Join(err, w.AddFile(strings.NewReader(bootHook(s)), "vendor-data"))
	}
	if s.Setup.CloudNetwork != "" {
		err = errors.Join(err, w.AddFile(strings.NewReader(s.Setup.CloudNetwork), "network-config"))
	}
	var image bytes.Buffer
	if err = errors.Join(err, w.WriteTo(&image, "cidata")); err != nil {
		return nil, fmt.Errorf("make the seed: %w", err)
	}
	return image.Bytes(), nil
}

// metaData names the instance by the copy of the job, so that a guest does not
// take itself for a new one when it is started again on a disk that was kept, or
// goes on on another node. JSON is YAML.
func metaData(s runner.Spec) []byte {
	id := place(s.Task)
	ordinal, _, _ := s.Task.Member()
	data, _ := json.Marshal(map[string]string{"instance-id": id, "local-hostname": hostname(s.Name, ordinal)})
	return append(data, '\n')
}

var notHost = regexp.MustCompile(`[^a-z0-9]+`)

// hostname makes a name of RFC 1123 of the job's.
func hostname(job string, ordinal int) string {
	name := strings.Trim(notHost.ReplaceAllString(strings.ToLower(job), "-"), "-")
	if name == "" {
		name = "vm"
	}
	return fmt.Sprintf("%.50s-%d", name, ordinal)
}

// checkUserData takes what cloud-init would.
func checkUserData(text string) error {
	switch first, rest, _ := strings.Cut(text, "\n"); {
	case text == "":
		return nil
	case len(text) > maxUserData:
		return fmt.Errorf("it has %d bytes, more than %d", len(text), maxUserData)
	case strings.HasPrefix(first, "#!"):
		return nil
	case strings.TrimSpace(first) != "#cloud-config":
		return fmt.Errorf("its first line is %q", fmt.Sprintf("%.40s", first))
	case strings.TrimSpace(rest) == "":
		return nil
	}
	return checkYAML(text)
}

// checkYAML parses without expanding aliases, and says the line of what is wrong.
func checkYAML(text string) (err error) {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if len(text) > maxUserData {
		return fmt.Errorf("it has %d bytes, more than %d", len(text), maxUserData)
	}
	if deep(text) {
		return fmt.Errorf("it nests deeper than %d levels", maxDepth)
	}
	// The reader of YAML has been seen to panic on garbage.
	defer func() {
		if recover() != nil {
			err = errors.New("it is not YAML that can be read")
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		return fmt.Errorf("it is not YAML: %w", err)
	}
	for _, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.MappingNode, *ast.MappingValueNode, *ast.CommentGroupNode:
		default:
			return fmt.Errorf("line %d: it is no mapping of names to values", body.GetToken().Position.Line)
		}
	}
	return nil
}

// maxDepth bounds the nesting of user-data, far above what anybody writes.
const maxDepth = 64

// deep reports whether a text may nest deeper: by brackets, or by dashes and
// question marks in one line. Brackets within strings count too.
func deep(text string) bool {
	open := 0
	for _, line := range strings.Split(text, "\n") {
		dashes := 0
		for _, c := range []byte(line) {
			switch c {
			case '[', '{':
				open++
			case ']', '}':
				open = max(0, open-1)
			case '-', '?':
				if dashes++; dashes > 4*maxDepth {
					return true
				}
			case ' ':
			default:
				dashes = 0
			}
			if open > maxDepth {
				return true
			}
		}
	}
	return false
}

// writeSeed puts the seed where the machine's user can read it.
func writeSeed(path string, image []byte) error { return os.WriteFile(path, image, 0o400) }
