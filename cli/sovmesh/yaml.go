package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of files that the command line reads, in bytes.
const (
	maxYAMLFile  = 256 << 10
	maxSitesFile = 16 << 20
	maxYAMLDepth = 24
)

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, inputFile(err, "check the path; relative ones start at the folder you are in")
	}
	defer f.Close()
	return readAll(f, path, limit)
}

func readAll(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, inputFile(fmt.Errorf("read %s: %w", name, err), "give a file that can be read")
	}
	if int64(len(data)) > limit {
		return nil, inputFile(fmt.Errorf("%s has more than %d bytes", name, limit), "give the file that was meant; nothing that belongs here is so large")
	}
	return data, nil
}

// decodeYAML reads one YAML document into plain values with positions; code is
// that of its errors. Scalars keep their literal, so that a plain NO is Norway.
func decodeYAML(data []byte, name, code string) (v residency.Value, err error) {
	fault := func(at residency.Value, help, format string, args ...any) error {
		return &api.InputError{Code: code, Message: name + ": " + fmt.Sprintf(format, args...), Help: help, Line: at.Line, Column: at.Column}
	}
	// The YAML reader has been seen to panic on garbage; that is bad input.
	defer func() {
		if p := recover(); p != nil {
			err = fault(residency.Value{}, "write plain YAML", "it cannot be read as YAML")
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		at, message := yamlFault(err)
		return v, fault(at, "check the indentation, the quotes and the brackets there", "not YAML: %s", message)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return v, fault(position(doc.Body), "keep one document in the file", "a second document begins here")
		}
		body = doc.Body
	}
	if body == nil {
		return v, fault(v, "write at least one key", "the file is empty")
	}
	return (&treeReader{fault: fault}).value(body, 0)
}

func yamlFault(err error) (residency.Value, string) {
	var at interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if !errors.As(err, &at) {
		return residency.Value{}, "it cannot be read"
	}
	var v residency.Value
	if t := at.GetToken(); t != nil && t.Position != nil {
		v.Line, v.Column = t.Position.Line, t.Position.Column
	}
	return v, at.GetMessage()
}

func position(n ast.Node) residency.Value {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return residency.Value{Line: t.Position.Line, Column: t.Position.Column}
	}
	return residency.Value{}
}

type treeReader struct {
	fault func(at residency.Value, help, format string, args ...any) error
}

func (r *treeReader) value(n ast.Node, depth int) (residency.Value, error) {
	v := position(n)
	if depth > maxYAMLDepth {
		return v, r.fault(v, "nothing here is nested so deeply", "nested too deeply")
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
			e, err := r.value(item, depth+1)
			if err != nil {
				return v, err
			}
			v.List = append(v.List, e)
		}
	case *ast.MappingNode:
		return r.fields(v, n.Values, depth)
	case *ast.MappingValueNode:
		return r.fields(v, []*ast.MappingValueNode{n}, depth)
	default:
		return v, r.fault(v, "write plain mappings, lists and values", "%s is not read here", n.Type())
	}
	return v, nil
}

func (r *treeReader) fields(v residency.Value, entries []*ast.MappingValueNode, depth int) (residency.Value, error) {
	v.Kind = residency.Map
	for i, e := range entries {
		key := position(e.Key)
		if i == 0 && key.Line > 0 && (v.Line == 0 || key.Line <= v.Line) {
			v.Line, v.Column = key.Line, key.Column
		}
		if _, merge := e.Key.(*ast.MergeKeyNode); merge || e.Key.GetToken() == nil {
			return v, r.fault(key, "write key: value", "this key cannot be read")
		}
		value := residency.Value{Kind: residency.Null, Text: "null", Line: key.Line, Column: key.Column}
		if e.Value != nil {
			var err error
			if value, err = r.value(e.Value, depth+1); err != nil {
				return v, err
			}
		}
		v.Fields = append(v.Fields, residency.Field{Name: e.Key.GetToken().Value, Line: key.Line, Column: key.Column, Value: value})
	}
	return v, nil
}
