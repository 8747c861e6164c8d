package api

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// JobFile is a job as its author wrote it, read and checked: the same reader
// serves the command line and the API.
type JobFile struct {
	Spec     placement.JobSpec
	Tag      residency.Tag
	Warnings []residency.Warning
}

// JobOptions are what reading a job file depends on.
type JobOptions struct {
	Pack *residency.Pack
	On   residency.Date
	// Residency, when set, is used in the place of the file's own tag: the flag
	// --residency. It is in wire form, or the short form.
	Residency string
	// Secret reads a secret that the file names and does not hold: how is file or
	// env, where the path or the variable. Nil refuses such secrets, as a server must.
	Secret func(how, where string) (string, error)
	// Parse, when set, reads tags in wire form in the place of
	// [residency.ParseWire]: a server's cache. Warnings are lost.
	Parse func(wire string, p *residency.Pack, on residency.Date) (residency.Tag, error)
}

// ReadJob reads a job file: YAML or JSON, at most [MaxJobBytes]. Its error is
// an [*InputError] (code input.job) or a [*residency.Error] (tag.*), with line
// and column, and nothing was changed.
func ReadJob(data []byte, o JobOptions) (*JobFile, error) {
	if len(data) > MaxJobBytes {
		return nil, &InputError{Code: "input.job", Message: "the job file has more than 1 MiB", Help: "keep data out of the job file; name an image or a path instead"}
	}
	tree, err := decodeTree(data)
	if err != nil {
		return nil, err
	}
	return readJobTree(tree, o)
}

func readJobTree(tree residency.Value, o JobOptions) (*JobFile, error) {
	if tree.Kind != residency.Map {
		return nil, jobError(tree, "write key: value lines, beginning with kind and residency", "a job file is a mapping, not %s", tree.Kind)
	}
	r := jobReader{o: o, policy: residency.Value{Kind: residency.Map, Line: tree.Line, Column: tree.Column}}
	if err := r.top(tree); err != nil {
		return nil, err
	}
	return r.finish(tree)
}

// Body is the job as the wire carries it: JSON, with the whole tag in its wire
// form under "residency", exactly what the header says.
func (j *JobFile) Body() ([]byte, error) {
	return json.Marshal(wireJob{Residency: j.Tag.Wire(), JobSpec: j.Spec})
}

type wireJob struct {
	Residency string `json:"residency"`
	placement.JobSpec
}

// jobFields are the keys of a job besides those of its tag.
var jobFields = []string{
	"name", "kind", "type", "command", "env", "resources", "priority", "restart", "singleton", "evidence",
	"on_drain", "stop_grace", "models", "upstream", "image", "site", "node",
	"preemptible", "gang", "spread", "avoid", "near", "rank", "max_runtime",
	"image_digest", "user", "workdir", "writable_root", "capabilities", "pids", "volumes", "ports", "network", "health",
	"disks", "root_size", "cloud_init", "cloud_network", "boot", "server", "secrets", "inputs", "outputs", "drift",
}

// jobReader gathers the fields of one job and where each stood.
type jobReader struct {
	o      JobOptions
	spec   placement.JobSpec
	policy residency.Value // the keys of the long form, as they stood
	at     map[string]residency.Value
}

func (r *jobReader) top(tree residency.Value) error {
	policyFields := residency.LongFields()
	r.at = make(map[string]residency.Value, len(tree.Fields))
	for _, f := range tree.Fields {
		key := residency.Value{Line: f.Line, Column: f.Column}
		if _, twice := r.at[f.Name]; twice {
			if slices.Contains(policyFields, f.Name) {
				return &residency.Error{Code: "tag.field", Message: f.Name + " stands here a second time", Help: "write every key once", Line: f.Line, Column: f.Column}
			}
			return jobError(key, "write every key once", "%s stands here a second time", f.Name)
		}
		r.at[f.Name] = f.Value
		if slices.Contains(policyFields, f.Name) {
			r.policy.Fields = append(r.policy.Fields, f)
			continue
		}
		if !slices.Contains(jobFields, f.Name) {
			return unknownField(key, "", f.Name, append(slices.Clone(jobFields), policyFields...))
		}
		if err := r.field(f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

func (r *jobReader) finish(tree residency.Value) (*JobFile, error) {
	tag, warnings, err := r.tag(tree)
	if err != nil {
		return nil, err
	}
	if err := r.defaults(tree); err != nil {
		return nil, err
	}
	if err := r.check(tree); err != nil {
		return nil, err
	}
	return &JobFile{Spec: r.spec, Tag: tag, Warnings: warnings}, nil
}

// tag reads the job's policy from the keys of the long form, or from what was
// given beside the file.
func (r *jobReader) tag(tree residency.Value) (residency.Tag, []residency.Warning, error) {
	if r.o.Residency != "" {
		tag, err := residency.ParseWire(r.o.Residency, r.o.Pack, r.o.On)
		return tag, nil, err
	}
	v, ok := r.at["residency"]
	if !ok {
		at := residency.Value{Line: max(tree.Line, 1), Column: max(tree.Column, 1)}
		return residency.Tag{}, nil, jobError(at, `add residency: "EEA" (or another tag); without one nothing is placed`, "the job has no residency")
	}
	if v.Kind == residency.String && strings.HasPrefix(v.Text, "json:") {
		if len(r.policy.Fields) > 1 {
			f := r.policy.Fields[0]
			return residency.Tag{}, nil, &residency.Error{Code: "tag.field", Message: "a residency in wire form stands beside other keys of the long form", Help: "write the long form, or the wire form alone", Line: f.Line, Column: f.Column}
		}
		tag, err := residency.ParseWire(v.Text, r.o.Pack, r.o.On)
		return tag, nil, err
	}
	if r.o.Parse != nil && v.Kind == residency.String && len(r.policy.Fields) == 1 {
		if tag, err := r.o.Parse(v.Text, r.o.Pack, r.o.On); err == nil {
			return tag, nil, nil // else the long way says where the fault is
		}
	}
	return residency.ParseLong(r.policy, r.o.Pack, r.o.On)
}

// defaults fills in what the author left out.
func (r *jobReader) defaults(tree residency.Value) error {
	s := &r.spec
	if s.Kind == "" {
		at := residency.Value{Line: max(tree.Line, 1), Column: max(tree.Column, 1)}
		return jobError(at, "add kind: process (or container, microvm, vm, inference)", "the job has no kind")
	}
	if s.Type == "" {
		s.Type = placement.TypeBatch
		if s.Kind == placement.KindVM || s.Kind == placement.KindInference {
			s.Type = placement.TypeService
		}
	}
	service := s.Type == placement.TypeService
	if s.Restart.Policy == "" {
		s.Restart.Policy = pick(service, "always", "never")
	}
	if s.Restart.Policy == "on-failure" && s.Restart.Attempts == 0 {
		s.Restart.Attempts = 3
	}
	// on_drain stays empty where the author said nothing: the operator's
	// --on-deadline fills that silence, and a default of ours would not.
	if s.Evidence == "" {
		s.Evidence = placement.EvidenceRequired
	}
	if _, said := r.at["stop_grace"]; !said {
		s.StopGrace = placement.Duration(defaultStopGrace)
	}
	standard := placement.DefaultResources()
	if s.Resources.CPU == 0 {
		s.Resources.CPU = standard.CPU
	}
	if s.Resources.Memory == 0 {
		s.Resources.Memory = standard.Memory
	}
	return nil
}

func pick[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}

// unknownField names the nearest valid field.
func unknownField(at residency.Value, in, name string, valid []string) *InputError {
	where := "a job"
	if in != "" {
		where = in
	}
	help := "the fields of " + where + " are: " + strings.Join(valid, ", ")
	if near := nearest(name, valid); near != "" {
		help = "did you mean " + near + "?"
	}
	return jobError(at, help, "%s has no field %s", where, quoteWord(name))
}
