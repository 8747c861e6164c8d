package api

import (
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of single fields.
const (
	defaultStopGrace = 30 * time.Second
	maxStopGrace     = 24 * time.Hour
	maxNameBytes     = 128
	maxListItems     = 1024
	maxTextBytes     = 128 << 10
	maxCores         = 100_000
	maxGPUs          = 1024
	maxRestarts      = 1000
	maxMemory        = 1 << 50 // bytes: 1 PiB
)

// field reads one key of the job.
func (r *jobReader) field(name string, v residency.Value) (err error) {
	s := &r.spec
	switch name {
	case "name":
		s.Name, err = text(name, v, maxNameBytes)
		if err == nil && strings.ContainsAny(s.Name, "\r\n\t") {
			err = jobError(v, "write one line", "the name has more than one line")
		}
	case "kind":
		s.Kind, err = word(name, v, placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM, placement.KindInference, placement.KindFake)
	case "type":
		s.Type, err = word(name, v, placement.TypeBatch, placement.TypeService)
	case "command":
		s.Command, err = texts(name, v)
	case "env":
		s.Env, err = environment(v)
	case "resources":
		err = resources(v, &s.Resources)
	case "priority":
		s.Priority, err = integer(name, v, 0, 100)
	case "restart":
		s.Restart, err = restart(v)
	case "singleton":
		s.Singleton, err = boolean(name, v)
	case "evidence":
		s.Evidence, err = word(name, v, placement.EvidenceRequired, placement.EvidenceBestEffort)
	case "on_drain":
		s.OnDrain, err = word(name, v, placement.DrainWait, placement.DrainMove, placement.DrainCheckpoint, placement.DrainStop)
	case "stop_grace":
		s.StopGrace, err = duration(name, v)
	case "models":
		s.Models, err = texts(name, v)
	case "upstream":
		s.Upstream, err = upstream(v)
	case "image":
		s.Image, err = text(name, v, 1024)
	case "site":
		s.Site, err = placeName(name, v)
	case "node":
		var n string
		n, err = placeName(name, v)
		s.NodeName = placement.NodeID(n)
	default:
		if _, ok := setupFields[name]; ok {
			return r.setupField(name, v)
		}
		err = r.queueField(name, v)
	}
	return err
}

// check looks at what several fields say together.
func (r *jobReader) check(tree residency.Value) error {
	s := &r.spec
	at := func(field string) residency.Value {
		if v, ok := r.at[field]; ok {
			return v
		}
		return residency.Value{Line: max(tree.Line, 1), Column: max(tree.Column, 1)}
	}
	serves := s.Setup != nil && s.Setup.Server != nil
	switch {
	case s.Kind == placement.KindProcess && len(s.Command) == 0:
		return jobError(at("command"), `add command: ["/usr/bin/program", "argument"]`, "a process job has no command")
	case s.Kind == placement.KindInference && len(s.Models) == 0:
		return jobError(at("models"), "add models: [name], the names that requests will ask for", "an inference job has no models")
	case s.Kind == placement.KindInference && s.Upstream == "" && !serves:
		return jobError(at("upstream"), "add upstream: http://127.0.0.1:8000, a model server on the node's loopback, or server: and what to start", "an inference job has no upstream")
	case s.Upstream != "" && serves:
		return jobError(at("upstream"), "leave out upstream, or server", "the job has a server of its own and names another one")
	case s.Kind == placement.KindInference && len(s.Command) > 0 && serves:
		return jobError(at("command"), "write it below server:", "the command of an inference job's server stands below server")
	case s.Kind != placement.KindInference && (s.Upstream != "" || len(s.Models) > 0):
		return jobError(at(pick(s.Upstream != "", "upstream", "models")), "write kind: inference, or leave it out", "models and upstream belong to inference jobs")
	case (s.Kind == placement.KindContainer || s.Kind == placement.KindMicroVM || s.Kind == placement.KindVM) && s.Image == "":
		return jobError(at("image"), "add image: and what to start", "a %s job has no image", s.Kind)
	case s.Image != "" && (s.Kind == placement.KindProcess || s.Kind == placement.KindInference):
		return jobError(at("image"), "write kind: container, or leave it out", "a %s job takes no image", s.Kind)
	case s.Type == placement.TypeService && s.Restart.Policy == "never":
		return jobError(at("restart"), "write restart: {policy: on-failure}, or type: batch", "a service that never restarts is no service")
	case s.Type == placement.TypeBatch && s.Restart.Policy == "always":
		return jobError(at("restart"), "write restart: {policy: on-failure}, or type: service", "a batch job that always restarts never ends")
	}
	if why, help := s.Resources.Problem(); why != "" {
		return jobError(at("resources"), help, "%s", why)
	}
	if err := r.checkSetup(at); err != nil {
		return err
	}
	return r.checkQueue(at)
}

func text(name string, v residency.Value, most int) (string, error) {
	if v.Kind != residency.String && v.Kind != residency.Number && v.Kind != residency.Bool {
		return "", jobError(v, "write a text, in quotes if in doubt", "%s must be a text, not %s", name, v.Kind)
	}
	if len(v.Text) > most {
		return "", jobError(v, fmt.Sprintf("write at most %d bytes", most), "%s has %d bytes", name, len(v.Text))
	}
	if !utf8.ValidString(v.Text) || strings.ContainsRune(v.Text, 0) {
		return "", jobError(v, "write UTF-8 text", "%s holds a byte that no text has", name)
	}
	return v.Text, nil
}

func texts(name string, v residency.Value) ([]string, error) {
	if v.Kind != residency.List {
		return nil, jobError(v, fmt.Sprintf("write %s: [\"first\", \"second\"]", name), "%s must be a list, not %s", name, v.Kind)
	}
	if len(v.List) == 0 || len(v.List) > maxListItems {
		return nil, jobError(v, fmt.Sprintf("write 1 to %d items, or leave it out", maxListItems), "%s has %d items", name, len(v.List))
	}
	out := make([]string, 0, len(v.List))
	for i, item := range v.List {
		s, err := text(fmt.Sprintf("%s, item %d,", name, i+1), item, maxTextBytes)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if out[0] == "" {
		return nil, jobError(v.List[0], "write what to use", "the first item of %s is empty", name)
	}
	return out, nil
}

// word reads one of a closed list; the kind that exists in tests only is not
// offered as a suggestion.
func word[T ~string](name string, v residency.Value, valid ...T) (T, error) {
	if v.Kind == residency.String && slices.Contains(valid, T(v.Text)) {
		return T(v.Text), nil
	}
	names := make([]string, 0, len(valid))
	for _, w := range valid {
		if placement.Kind(w) != placement.KindFake {
			names = append(names, string(w))
		}
	}
	help := "write one of: " + strings.Join(names, ", ")
	if near := nearest(v.Text, names); near != "" && v.Kind == residency.String {
		help = "did you mean " + near + "?"
	}
	shown := quoteWord(v.Text)
	if v.Kind == residency.List || v.Kind == residency.Map || v.Kind == residency.Null {
		shown = v.Kind.String()
	}
	return "", jobError(v, help, "%s cannot be %s", name, shown)
}

func integer(name string, v residency.Value, least, most int) (int, error) {
	n, err := strconv.Atoi(v.Text)
	if v.Kind == residency.String && err == nil && n >= least && n <= most {
		return 0, jobError(v, fmt.Sprintf("write it without quotes: %s: %d", name, n), "%s must be a number, not the string %s", name, quoteWord(v.Text))
	}
	if v.Kind != residency.Number || err != nil || n < least || n > most {
		shown := quoteWord(v.Text)
		if v.Kind == residency.List || v.Kind == residency.Map {
			shown = v.Kind.String()
		}
		return 0, jobError(v, fmt.Sprintf("write a whole number from %d to %d", least, most), "%s cannot be %s", name, shown)
	}
	return n, nil
}

func boolean(name string, v residency.Value) (bool, error) {
	if v.Kind != residency.Bool {
		return false, jobError(v, "write true or false", "%s must be true or false, not %s", name, v.Kind)
	}
	return strings.EqualFold(v.Text, "true"), nil
}

func duration(name string, v residency.Value) (placement.Duration, error) {
	d, err := time.ParseDuration(v.Text)
	if v.Kind != residency.String || err != nil || d < 0 || d > maxStopGrace {
		return 0, jobError(v, "write a time such as 30s or 5m, at most 24h", "%s cannot be %s", name, quoteWord(v.Text))
	}
	return placement.Duration(d), nil
}

func placeName(name string, v residency.Value) (string, error) {
	s, err := text(name, v, 63)
	if err == nil && !placement.ValidName(s) {
		err = jobError(v, "write lower-case letters, digits and hyphens", "%s cannot be %s", name, quoteWord(s))
	}
	return s, err
}

func environment(v residency.Value) (map[string]string, error) {
	if v.Kind != residency.Map || len(v.Fields) > maxListItems {
		return nil, jobError(v, "write env: {NAME: value}", "env must be a mapping of at most %d names", maxListItems)
	}
	out := make(map[string]string, len(v.Fields))
	for _, f := range v.Fields {
		key := residency.Value{Line: f.Line, Column: f.Column}
		if _, twice := out[f.Name]; twice {
			return nil, jobError(key, "write every key once", "env names %s a second time", quoteWord(f.Name))
		}
		if f.Name == "" || len(f.Name) > 256 || strings.ContainsAny(f.Name, "=\x00 \t\r\n") {
			return nil, jobError(key, "write letters, digits and underscores", "%s cannot name a variable", quoteWord(f.Name))
		}
		s, err := text("env "+f.Name, f.Value, maxTextBytes)
		if err != nil {
			return nil, err
		}
		out[f.Name] = s
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

var resourceFields = []string{"cpu", "memory", "gpus", "gpu_share", "gpu_model", "gpu_memory", "gpu_profile", "confidential"}

func resources(v residency.Value, into *placement.Resources) error {
	if v.Kind != residency.Map {
		return jobError(v, "write resources: {cpu: 500m, memory: 256MiB, gpus: 1}", "resources must be a mapping, not %s", v.Kind)
	}
	seen := map[string]bool{}
	for _, f := range v.Fields {
		key := residency.Value{Line: f.Line, Column: f.Column}
		if seen[f.Name] {
			return jobError(key, "write every key once", "%s stands here a second time", f.Name)
		}
		seen[f.Name] = true
		var err error
		switch f.Name {
		case "cpu":
			into.CPU, err = cpu(f.Value)
		case "memory":
			into.Memory, err = memory(f.Name, f.Value)
		case "gpus":
			into.GPUs, err = integer(f.Name, f.Value, 0, maxGPUs)
			if share, isShare := placement.ParseGPUShare(f.Value.Text); err != nil && isShare == nil {
				err = jobError(f.Value, fmt.Sprintf("write gpu_share: %s for a part of one GPU", share), "gpus counts whole GPUs, it cannot be %s", quoteWord(f.Value.Text))
			}
		case "gpu_share":
			into.GPUShare, err = gpuShare(f.Value)
		case "gpu_profile":
			into.GPUProfile, err = text(f.Name, f.Value, 24)
			if err == nil && !placement.ValidProfile(into.GPUProfile) {
				err = jobError(f.Value, "write it as the driver does, for example 1g.10gb or 3g.40gb", "%s is no MIG profile", quoteWord(into.GPUProfile))
			}
		case "confidential":
			into.Confidential, err = boolean(f.Name, f.Value)
		case "gpu_model":
			into.GPUModel, err = text(f.Name, f.Value, 64)
		case "gpu_memory":
			into.GPUMemory, err = memory(f.Name, f.Value)
		default:
			err = unknownField(key, "resources", f.Name, resourceFields)
		}
		if err != nil {
			return err
		}
	}
	if into.GPUs == 0 && !seen["gpus"] && (into.GPUShare > 0 || into.GPUProfile != "") {
		into.GPUs = 1 // a share or a slice is of one, unless said
	}
	return nil
}

// gpuShare reads a part of one device.
func gpuShare(v residency.Value) (placement.MilliGPU, error) {
	n, err := placement.ParseGPUShare(v.Text)
	if !scalar(v) || err != nil {
		return 0, jobError(v, "write a part of one GPU, as in 0.3 or 300m; gpus: 1 is all of it", "gpu_share cannot be %s", quoteWord(v.Text))
	}
	return n, nil
}

func scalar(v residency.Value) bool { return v.Kind == residency.String || v.Kind == residency.Number }

func cpu(v residency.Value) (placement.MilliCPU, error) {
	n, err := placement.ParseCPU(v.Text)
	if !scalar(v) || err != nil || n <= 0 || n > maxCores*1000 {
		return 0, jobError(v, "write cores or thousandths of one, as in 2 or 500m, above zero", "cpu cannot be %s", quoteWord(v.Text))
	}
	return n, nil
}

func memory(name string, v residency.Value) (placement.Bytes, error) {
	n, err := placement.ParseBytes(v.Text)
	if !scalar(v) || err != nil || n <= 0 || n > maxMemory {
		return 0, jobError(v, "write a number and a unit, as in 256MiB or 40GiB, above zero and at most 1024TiB", "%s cannot be %s", name, quoteWord(v.Text))
	}
	return n, nil
}

func restart(v residency.Value) (out placement.Restart, err error) {
	err = fields("restart", "write restart: {policy: on-failure, attempts: 3}", v, []string{"policy", "attempts"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "policy":
			out.Policy, err = word(f, v, "never", "on-failure", "always")
		case "attempts":
			out.Attempts, err = integer(f, v, 0, maxRestarts)
		}
		return err
	})
	return out, err
}

// upstream is a model server on the node's own loopback: a job must not make
// its node speak to anything else.
func upstream(v residency.Value) (string, error) {
	s, err := text("upstream", v, 256)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !loopback(u.Hostname()) {
		return "", jobError(v, "write http://127.0.0.1:PORT", "upstream cannot be %s: it names a model server on the node's loopback", quoteWord(s))
	}
	return s, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func quoteWord(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// nearest is the valid word with the least edits to what was written, when
// that is near enough to be a slip.
func nearest(written string, valid []string) string {
	if len(written) > 64 {
		return ""
	}
	best, at := math.MaxInt, ""
	lower := strings.ToLower(written)
	for _, w := range valid {
		if d := edits(lower, w); d < best {
			best, at = d, w
		}
	}
	if best > max(1, len(at)/2) {
		return ""
	}
	return at
}

// edits is the Levenshtein distance of two short words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := before
			if a[i-1] != b[j-1] {
				cost++
			}
			before = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, cost)
		}
	}
	return row[len(b)]
}
