package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/sovmesh/sovmesh/placement"
)

// jobDocument is a job as a submit carries it, for the OpenAPI document; what
// reads it is [ReadJob].
type jobDocument struct {
	Residency any `json:"residency" doc:"the short form, the wire form, or the mapping of the long form"`
	placement.JobSpec
}

// document writes the OpenAPI 3.1 description of the app listener's operations.
func document(ops []operation) ([]byte, error) {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	// These write themselves as text.
	for _, quantity := range []any{placement.MilliCPU(0), placement.Bytes(0), placement.Duration(0)} {
		registry.RegisterTypeAlias(reflect.TypeOf(quantity), reflect.TypeOf(""))
	}
	problem := registry.Schema(reflect.TypeOf(Problem{}), true, "Problem")
	paths := map[string]map[string]any{}
	for _, op := range ops {
		if strings.HasPrefix(op.Path, MeshPrefix) {
			continue
		}
		path := strings.ReplaceAll(op.Path, "...}", "}")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(op.Method)] = describe(op, registry, problem)
	}
	doc := map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "sovmesh", "version": "1",
			"description": "Run AI where the law says it must run, and prove it. The control plane of one region.",
			"license":     map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"paths": paths,
		"components": map[string]any{
			"schemas": registry.Map(),
			"securitySchemes": map[string]any{
				"bearer": map[string]any{"type": "http", "scheme": "bearer", "description": "a token of this region; never send it to another"},
				"grant":  map[string]any{"type": "apiKey", "in": "header", "name": "Authorization", "description": GrantScheme + " STATEMENT: what the home region granted for one job"},
			},
		},
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return out.Bytes(), nil
}

// schemaName keeps the names of packages out, and spells generic types.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if t != reflect.TypeFor[jobDocument]() {
		name = strings.Replace(name, "JobDocument", "Job", 1) // what programs see is the job
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

var pathVariable = regexp.MustCompile(`\{([a-z]+)(?:\.\.\.)?\}`)

func describe(op operation, registry huma.Registry, problem *huma.Schema) map[string]any {
	params := []any{}
	for _, m := range pathVariable.FindAllStringSubmatch(op.Path, -1) {
		params = append(params, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, q := range op.Query {
		params = append(params, map[string]any{"name": q.Name, "in": "query", "description": q.Summary, "schema": map[string]any{"type": q.Type}})
	}
	if op.ID == "submitJob" {
		params = append(params,
			map[string]any{"name": HeaderResidency, "in": "header", "required": true, "description": "the job's whole policy, in wire form; judged before the body is read", "schema": map[string]any{"type": "string", "maxLength": 8192}},
			map[string]any{"name": HeaderIdempotency, "in": "header", "description": "a repetition with the same key answers the first job", "schema": map[string]any{"type": "string", "maxLength": MaxIdempotency}})
	}
	content := func(schema any, kind string) map[string]any {
		return map[string]any{kind: map[string]any{"schema": schema}}
	}
	responses := map[string]any{"default": map[string]any{"description": "a problem (RFC 9457), with code and hint", "content": content(problem, "application/problem+json")}}
	switch {
	case op.Out != nil:
		responses[strconv.Itoa(op.success())] = map[string]any{"description": "done", "content": content(registry.Schema(reflect.TypeOf(op.Out), true, op.ID), "application/json")}
	case op.Stream != "":
		responses["200"] = map[string]any{"description": "the stream", "content": content(map[string]any{}, op.Stream)}
	default:
		responses["204"] = map[string]any{"description": "done"}
	}
	out := map[string]any{"operationId": op.ID, "summary": op.Summary, "parameters": params, "responses": responses, "x-sovmesh-verb": op.Verb}
	if op.In != nil {
		out["requestBody"] = map[string]any{"required": true, "content": content(registry.Schema(reflect.TypeOf(op.In), true, op.ID+"Request"), "application/json")}
	}
	security := []any{}
	if op.Verb != VerbPublic {
		security = append(security, map[string]any{"bearer": []any{}})
	}
	if op.Grant != "" {
		security = append(security, map[string]any{"grant": []any{}})
	}
	out["security"] = security
	return out
}

// success is the status of a good answer.
func (op operation) success() int {
	switch op.ID {
	case "submitJob", "createGrant", "inviteRegion", "importLaw", "createToken", "createNodeToken", "joinNode":
		return http.StatusCreated
	case "drainNode", "drainNodes", "federationJoin":
		return http.StatusAccepted
	}
	return http.StatusOK
}

func serveDocument(s *Server, c *call) error {
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(s.openapi) // the caller is gone: nobody to tell
	return nil
}
