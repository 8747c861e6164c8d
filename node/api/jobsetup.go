package api

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of what a workload is set up with.
const (
	maxVolumes  = 16
	maxPorts    = 64
	maxDisks    = 8
	maxInputs   = 32
	maxReaches  = 256
	maxDNS      = 8
	maxPids     = 1 << 20
	maxDiskSize = 1 << 46 // bytes: 64 TiB
	maxUser     = 1<<31 - 1
	lowestHost  = 1024 // of a node's own ports: those below are its operator's
)

// setupFields are the keys of [placement.Setup], which stand beside the others,
// each with the kinds of workload that have it. An inference job's server has
// those of the server's own kind.
var setupFields = map[string][]placement.Kind{
	"image_digest":  {placement.KindContainer, placement.KindMicroVM, placement.KindVM},
	"user":          {placement.KindContainer, placement.KindMicroVM},
	"workdir":       {placement.KindContainer, placement.KindMicroVM},
	"writable_root": {placement.KindContainer, placement.KindMicroVM},
	"capabilities":  {placement.KindContainer, placement.KindMicroVM},
	"pids":          {placement.KindProcess, placement.KindContainer, placement.KindMicroVM},
	"volumes":       {placement.KindProcess, placement.KindContainer, placement.KindMicroVM},
	"ports":         {placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM},
	"network":       {placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM},
	"health":        {placement.KindContainer},
	"disks":         {placement.KindVM},
	"root_size":     {placement.KindVM},
	"cloud_init":    {placement.KindVM},
	"cloud_network": {placement.KindVM},
	"boot":          {placement.KindVM},
	"server":        {placement.KindInference},
	"secrets":       {placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM},
	"inputs":        {placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM},
	"outputs":       {placement.KindProcess, placement.KindContainer},
	"drift":         {placement.KindContainer, placement.KindMicroVM, placement.KindVM},
}

// setup is what the job says of its workload, from the first word of it on.
func (r *jobReader) setup() *placement.Setup {
	if r.spec.Setup == nil {
		r.spec.Setup = new(placement.Setup)
	}
	return r.spec.Setup
}

// setupField reads one key of [placement.Setup].
func (r *jobReader) setupField(name string, v residency.Value) (err error) {
	s := r.setup()
	switch name {
	case "image_digest":
		s.ImageDigest, err = digest(name, v)
	case "user":
		s.User, err = user(v)
	case "workdir":
		s.WorkDir, err = inside(name, v, true)
	case "writable_root":
		s.WritableRoot, err = boolean(name, v)
	case "capabilities":
		s.Capabilities, err = capabilities(v)
	case "pids":
		s.Pids, err = integer(name, v, 1, maxPids)
	case "volumes":
		s.Volumes, err = rows(name, v, maxVolumes, "write volumes: [{name: data, path: /data}]", volume)
	case "ports":
		s.Ports, err = ports(v)
	case "network":
		s.Network, err = network(v)
	case "health":
		s.Health, err = healthCheck(v)
	case "disks":
		s.Disks, err = rows(name, v, maxDisks, "write disks: [{name: data, size: 20GiB}]", disk)
	case "root_size":
		s.RootSize, err = diskSize(name, v)
	case "cloud_init":
		s.CloudInit, err = cloudInit(v)
	case "cloud_network":
		s.CloudNetwork, err = cloudNetwork(v)
	case "boot":
		s.Boot, err = word(name, v, placement.BootBIOS, placement.BootUEFI, placement.BootDirect)
	case "server":
		s.Server, err = modelServer(v)
	case "secrets":
		s.Secrets, err = secrets(v, r.o.Secret)
	case "inputs":
		s.Inputs, err = rows(name, v, maxInputs, inputHelp, input)
	case "outputs":
		s.Outputs, err = outputs(v)
	case "drift":
		s.Drift, err = word(name, v, placement.DriftOff, placement.DriftReport, placement.DriftEnforce)
	}
	return err
}

// checkSetup looks at what these keys say together with others.
func (r *jobReader) checkSetup(at func(string) residency.Value) error {
	kind, image := workload(&r.spec)
	if err := checkImage(kind, image, r.spec.Setup, at); err != nil || r.spec.Setup == nil {
		return err
	}
	for _, name := range jobFields { // in the order of the page
		kinds, ok := setupFields[name]
		if _, said := r.at[name]; !ok || !said || r.spec.Kind == placement.KindFake {
			continue
		}
		if own := r.spec.Kind; slices.Contains(kinds, kind) || slices.Contains(kinds, own) {
			continue
		}
		return jobError(at(name), "leave it out, or write kind: "+joinKinds(kinds), "a %s job has no %s", kind, name)
	}
	if r.spec.Setup.Outputs != nil && (r.spec.Type == placement.TypeService || r.spec.Kind == placement.KindInference) {
		return jobError(at("outputs"), "leave outputs out and write to a volume, or write type: batch", "a service has no outputs: they are kept when a task has ended")
	}
	if v, where := r.spec.Setup.Misplaced(kind); v != nil {
		return jobError(at("volumes"), "choose another place, as in /data or /var/lib/NAME, and none within another volume", "the volume %s of a process cannot lie at %s: %s is there", quoteWord(v.Name), quoteWord(v.Path), where)
	}
	return checkNamesDiffer(r.spec.Setup, at)
}

func joinKinds(kinds []placement.Kind) string {
	words := make([]string, 0, len(kinds))
	for _, k := range kinds {
		words = append(words, string(k))
	}
	return strings.Join(words, " or ")
}

// plainPath reports whether a path is absolute and says what it means.
func plainPath(p string) bool {
	return strings.HasPrefix(p, "/") && len(p) > 1 && path.Clean(p) == strings.TrimSuffix(p, "/")
}

func digest(name string, v residency.Value) (string, error) {
	s, err := text(name, v, 80)
	if err == nil && !digestWords.MatchString(s) {
		err = jobError(v, "write sha256: and 64 hexadecimal digits in lower case", "%s cannot be %s", name, quoteWord(s))
	}
	return s, err
}

// user is a number, and one of a group: a name means another account in each image.
func user(v residency.Value) (string, error) {
	s, err := text("user", v, 32)
	if err != nil {
		return "", err
	}
	uid, gid, group := strings.Cut(s, ":")
	for _, id := range []string{uid, pick(group, gid, "0")} {
		if n, err := strconv.ParseUint(id, 10, 32); err != nil || n > maxUser {
			return "", jobError(v, "write numbers: user: \"1000\" or user: \"1000:1000\"", "user cannot be %s", quoteWord(s))
		}
	}
	return s, nil
}

// inside is a path in the workload.
func inside(name string, v residency.Value, rootToo bool) (string, error) {
	s, err := text(name, v, 1024)
	if err == nil && !plainPath(s) && !(rootToo && s == "/") {
		err = jobError(v, "write an absolute path without .. and //", "%s cannot be %s", name, quoteWord(s))
	}
	return s, err
}

// keepable are the capabilities that a job may ask to keep. None of them gives
// power over the machine outside of the workload's namespaces.
// https://man7.org/linux/man-pages/man7/capabilities.7.html
var keepable = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "NET_ADMIN", "NET_BIND_SERVICE",
	"NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_NICE",
}

func capabilities(v residency.Value) ([]string, error) {
	list, err := texts("capabilities", v)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(list))
	for i, c := range list {
		name := strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		if !slices.Contains(keepable, name) {
			help := "those that a job may keep: " + strings.Join(keepable, ", ")
			for _, k := range keepable {
				if len(name) < 32 && edits(name, k) <= 2 { // a slip, and not another power
					help = "did you mean " + k + "?"
				}
			}
			return nil, jobError(v.List[i], help, "a job cannot keep the capability %s", quoteWord(c))
		}
		if slices.Contains(out, name) {
			return nil, jobError(v.List[i], "write it once", "capabilities names %s a second time", name)
		}
		out = append(out, name)
	}
	return out, nil
}

// rows reads a bounded list of mappings.
func rows[T any](name string, v residency.Value, most int, help string, one func(residency.Value) (T, error)) ([]T, error) {
	if v.Kind != residency.List {
		return nil, jobError(v, help, "%s must be a list, not %s", name, v.Kind)
	}
	if len(v.List) == 0 || len(v.List) > most {
		return nil, jobError(v, fmt.Sprintf("write 1 to %d items, or leave it out", most), "%s has %d items", name, len(v.List))
	}
	out := make([]T, 0, len(v.List))
	for _, item := range v.List {
		x, err := one(item)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// fields reads a mapping whose keys are known, each once.
func fields(name, help string, v residency.Value, valid []string, read func(field string, v residency.Value) error) error {
	if v.Kind != residency.Map {
		return jobError(v, help, "%s must be a mapping, not %s", name, v.Kind)
	}
	seen := map[string]bool{}
	for _, f := range v.Fields {
		key := residency.Value{Line: f.Line, Column: f.Column}
		switch {
		case seen[f.Name]:
			return jobError(key, "write every key once", "%s stands here a second time", f.Name)
		case !slices.Contains(valid, f.Name):
			return unknownField(key, name, f.Name, valid)
		}
		seen[f.Name] = true
		if err := read(f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

// checkNamesDiffer refuses two things of one name, and two at one place.
func checkNamesDiffer(s *placement.Setup, at func(string) residency.Value) error {
	twice := func(field string) func(words ...string) error {
		seen := map[string]bool{}
		return func(words ...string) error {
			for _, w := range words {
				if w != "" && w != "0" && seen[w] {
					return jobError(at(field), "write each once", "%s has %s twice", field, quoteWord(w))
				}
				seen[w] = true
			}
			return nil
		}
	}
	check := twice("volumes")
	for _, v := range s.Volumes {
		if err := check(v.Name, v.Path); err != nil {
			return err
		}
	}
	check = twice("inputs")
	for _, in := range s.Inputs {
		if err := check(in.Name); err != nil {
			return err
		}
	}
	check = twice("disks")
	for _, d := range s.Disks {
		if err := check(d.Name); err != nil {
			return err
		}
	}
	check, host := twice("ports"), twice("ports")
	for _, p := range s.Ports {
		if err := check(p.Name, strconv.Itoa(p.Port)); err != nil {
			return err
		}
		if err := host(strconv.Itoa(p.Host)); err != nil {
			return err
		}
	}
	return nil
}
