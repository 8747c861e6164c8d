package api

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of a job file beyond its bytes: both keep a hostile file from costing
// more than its size.
const (
	maxTreeDepth = 16
	maxYAMLBytes = 256 << 10
)

// InputError says what is wrong with a job file, a body or a parameter, where,
// and what to write instead. Nothing was changed when a caller receives one.
type InputError struct {
	Code         string // input.job, input.usage, input.body …
	Message      string
	Help         string
	Line, Column int // 1-based; 0 when the input has no lines
}

// Error says what and where.
func (e *InputError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s (line %d, column %d)", e.Message, e.Line, e.Column)
	}
	return e.Message
}

// Hint says what to write instead.
func (e *InputError) Hint() string { return e.Help }

func jobError(at residency.Value, help, format string, args ...any) *InputError {
	return &InputError{Code: "input.job", Message: fmt.Sprintf(format, args...), Help: help, Line: at.Line, Column: at.Column}
}

// decodeTree reads JSON or YAML into plain values with positions. A scalar
// keeps its literal, so a plain NO stays "NO". Anchors, aliases, tags, merge
// keys, directives and further documents are refused: nothing in a job file may
// mean more than it shows.
func decodeTree(data []byte) (residency.Value, error) {
	if looksLikeJSON(data) {
		if v, ok := readJSONTree(data); ok {
			return v, nil
		}
		// It may be YAML in flow style; if it is JSON with a fault, that is
		// said in the words of YAML, which has the same brackets.
	}
	return decodeYAML(data)
}

func looksLikeJSON(data []byte) bool {
	text := strings.TrimLeft(string(data[:min(len(data), 64)]), " \t\r\n")
	return strings.HasPrefix(text, "{")
}

func decodeYAML(data []byte) (v residency.Value, err error) {
	if len(data) > maxYAMLBytes {
		return v, &InputError{Code: "input.job", Message: fmt.Sprintf("the job file has %d bytes", len(data)), Help: "a job file holds at most 256 KiB; keep data out of it"}
	}
	// The YAML reader has been seen to panic on hostile input; that is bad input.
	defer func() {
		if p := recover(); p != nil {
			err = &InputError{Code: "input.job", Message: "the job file cannot be read as YAML", Help: "write it as plain YAML or JSON"}
		}
	}()
	for i := 0; i < len(data); i++ {
		if c := data[i]; c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			return v, &InputError{Code: "input.job", Message: fmt.Sprintf("the job file has the control byte 0x%02x at offset %d", c, i), Help: "a job file is UTF-8 text: YAML or JSON"}
		}
	}
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens); err != nil {
		return v, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return v, yamlFault(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return v, jobError(position(doc.Body), "write one job in one file", "a second document begins here")
		}
		body = doc.Body
	}
	if body == nil {
		return v, &InputError{Code: "input.job", Message: "the job file is empty", Help: "write at least kind, residency and command; see: sovmesh job run --help"}
	}
	return treeOf(body, 0)
}

// checkTokens refuses what a job file does not need, and nesting that would
// make the reader's recursion deep, before anything recursive runs.
func checkTokens(tokens token.Tokens) error {
	depth, dashes, line := 0, 0, 0
	for _, t := range tokens {
		at := residency.Value{Line: t.Position.Line, Column: t.Position.Column}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return jobError(at, "write the value out in full", "anchors, aliases and merge keys are not read in a job file")
		case token.TagType, token.DirectiveType:
			return jobError(at, "leave it out: every field has one type", "YAML tags and directives are not read in a job file")
		case token.MappingKeyType:
			return jobError(at, "write key: value", "explicit keys (? key) are not read in a job file")
		case token.InvalidType:
			return jobError(at, "check the quotes and the indentation", "this is not YAML: %s", t.Error)
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			if at.Line != line {
				line, dashes = at.Line, 0
			}
			dashes++
		}
		if depth > maxTreeDepth || dashes > maxTreeDepth {
			return jobError(at, "no field of a job file is nested so deeply", "nested too deeply")
		}
	}
	return nil
}

// yamlFault keeps the first line of the YAML reader's message and its position.
func yamlFault(err error) error {
	out := &InputError{Code: "input.job", Help: "check the indentation, the quotes and the brackets at that place"}
	var at interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if e, ok := err.(interface {
		GetToken() *token.Token
		GetMessage() string
	}); ok {
		at = e
	}
	if at != nil && at.GetToken() != nil && at.GetToken().Position != nil {
		out.Line, out.Column = at.GetToken().Position.Line, at.GetToken().Position.Column
		out.Message = "not YAML: " + at.GetMessage()
		return out
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	out.Message = "not YAML: " + first
	return out
}

func position(n ast.Node) residency.Value {
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return residency.Value{}
	}
	return residency.Value{Line: t.Position.Line, Column: t.Position.Column}
}

func treeOf(n ast.Node, depth int) (residency.Value, error) {
	v := position(n)
	if depth > maxTreeDepth {
		return v, jobError(v, "no field of a job file is nested so deeply", "nested too deeply")
	}
	switch n := n.(type) {
	case *ast.NullNode:
		v.Kind, v.Text = residency.Null, "null"
	case *ast.BoolNode:
		v.Kind, v.Text = residency.Bool, n.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		v.Kind, v.Text = residency.Number, n.GetToken().Value
	case *ast.StringNode:
		v.Kind, v.Text = residency.String, n.Value
	case *ast.LiteralNode:
		v.Kind, v.Text = residency.String, n.Value.Value
	case *ast.SequenceNode:
		v.Kind = residency.List
		for _, item := range n.Values {
			e, err := treeOf(item, depth+1)
			if err != nil {
				return v, err
			}
			v.List = append(v.List, e)
		}
	case *ast.MappingNode:
		v.Kind = residency.Map
		return fieldsOf(v, n.Values, depth)
	case *ast.MappingValueNode:
		v.Kind = residency.Map
		return fieldsOf(v, []*ast.MappingValueNode{n}, depth)
	default:
		return v, jobError(v, "write plain mappings, lists and values", "%s is not read in a job file", n.Type())
	}
	return v, nil
}

func fieldsOf(v residency.Value, entries []*ast.MappingValueNode, depth int) (residency.Value, error) {
	for i, e := range entries {
		key := position(e.Key)
		if i == 0 && key.Line > 0 && (v.Line == 0 || key.Line <= v.Line) {
			v.Line, v.Column = key.Line, key.Column
		}
		t := e.Key.GetToken()
		if t == nil {
			return v, jobError(key, "write key: value", "a key cannot be read")
		}
		value := residency.Value{Kind: residency.Null, Text: "null", Line: key.Line, Column: key.Column}
		if e.Value != nil {
			var err error
			if value, err = treeOf(e.Value, depth+1); err != nil {
				return v, err
			}
		}
		v.Fields = append(v.Fields, residency.Field{Name: t.Value, Line: key.Line, Column: key.Column, Value: value})
	}
	return v, nil
}
