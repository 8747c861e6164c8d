// Package userdata reads what a job hands to its guest at the start, as
// cloud-init would, as far as is needed to say that it is none.
//
// The rule: what is refused here no guest could have used, and it is refused
// before anything is started. Nothing of it is expanded or run. The API relies on it
// at a job's submit, and the driver of machines once more on the node.
// https://docs.cloud-init.io/en/latest/explanation/format.html
package userdata

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Most bounds it, in bytes.
const Most = 1 << 20

// Error is what is wrong with it, and where.
type Error struct {
	Line, Column int // 1-based, within the text; 0 when it is all of it
	Reason       string
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
	}
	return e.Reason
}

func wrong(format string, args ...any) error { return &Error{Reason: fmt.Sprintf(format, args...)} }

// Check takes what cloud-init would.
func Check(text string) error {
	switch first, rest, _ := strings.Cut(text, "\n"); {
	case text == "":
		return nil
	case len(text) > Most:
		return wrong("it has %d bytes, more than %d", len(text), Most)
	case !Begins(text):
		return wrong("its first line is %q", fmt.Sprintf("%.40s", first))
	case strings.HasPrefix(first, "#!"), strings.TrimSpace(rest) == "":
		return nil
	}
	return CheckYAML(text)
}

// Begins reports whether the first line says a kind that is taken: a mapping for
// cloud-init, or a program.
func Begins(text string) bool {
	first, _, _ := strings.Cut(text, "\n")
	return strings.HasPrefix(first, "#!") || strings.TrimRight(first, " \t\r") == "#cloud-config"
}

// CheckYAML parses without expanding aliases, and says the line of what is wrong.
func CheckYAML(text string) (err error) {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if len(text) > Most {
		return wrong("it has %d bytes, more than %d", len(text), Most)
	}
	if deep(text) {
		return wrong("it nests deeper than %d levels", maxDepth)
	}
	// The reader of YAML has been seen to panic on garbage.
	defer func() {
		if recover() != nil {
			err = wrong("it is not YAML that can be read")
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		return fault(err)
	}
	for _, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.MappingNode, *ast.MappingValueNode, *ast.CommentGroupNode:
		default:
			at := &Error{Reason: "it is no mapping of names to values"}
			at.stand(body.GetToken())
			return at
		}
	}
	return nil
}

// fault is an error of the reader's, in one line.
func fault(err error) error {
	out := &Error{}
	var at interface {
		error
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &at) {
		out.Reason = "it is not YAML: " + at.GetMessage()
		out.stand(at.GetToken())
		return out
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	out.Reason = "it is not YAML: " + first
	return out
}

func (e *Error) stand(at *token.Token) {
	if at != nil && at.Position != nil {
		e.Line, e.Column = at.Position.Line, at.Position.Column
	}
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
