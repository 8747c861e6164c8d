package api

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
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
	case "drift":
		s.Drift, err = word(name, v, placement.DriftOff, placement.DriftReport, placement.DriftEnforce)
	}
	return err
}

// workload is the kind of what is started for the job, and its image: an
// inference job's are those of its server.
func workload(s *placement.JobSpec) (placement.Kind, string) {
	if s.Kind == placement.KindInference && s.Setup != nil && s.Setup.Server != nil {
		return s.Setup.Server.Kind, s.Setup.Server.Image
	}
	return s.Kind, s.Image
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

// checkImage looks at how the image of a kind is named, before any node does.
func checkImage(kind placement.Kind, image string, s *placement.Setup, at func(string) residency.Value) error {
	if image == "" {
		return nil
	}
	where := at("image")
	wanted := ""
	if s != nil {
		wanted = s.ImageDigest
		if s.Server != nil {
			where = at("server")
		}
	}
	switch kind {
	case placement.KindContainer, placement.KindMicroVM:
		scheme, file, local := strings.Cut(image, ":")
		if local && (scheme == "oci-archive" || scheme == "oci-layout") {
			if !plainPath(file) {
				return jobError(where, "write "+scheme+":/path/of/it, below the image directory of the node", "%s names no absolute path", quoteWord(image))
			}
			return nil
		}
		if !imageReference.MatchString(image) {
			return jobError(where, "write registry.example/app@sha256:..., oci-archive:/path/image.tar or oci-layout:/path", "image cannot be %s", quoteWord(image))
		}
		if _, pinned, ok := strings.Cut(image, "@"); ok && wanted != "" && pinned != wanted {
			return jobError(at("image_digest"), "write one digest", "image and image_digest name two digests")
		}
	case placement.KindVM:
		switch u, err := url.Parse(image); {
		case strings.HasPrefix(image, "/"):
			if !plainPath(image) {
				return jobError(where, "write the path as it is, without .. and //", "image cannot be %s", quoteWord(image))
			}
		case strings.Contains(image, "://"):
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
				return jobError(where, "write https://host/path", "image cannot be %s", quoteWord(image))
			}
			if wanted == "" {
				return jobError(where, "add image_digest: sha256:... of the file", "an image from a URL needs the digest of its bytes")
			}
		case !catalogueName.MatchString(image):
			return jobError(where, "write a name of the catalogue such as debian-12, a path below the node's image directory, or a URL with image_digest", "image cannot be %s", quoteWord(image))
		}
	}
	return nil
}

// An image reference: registry and repository, with a tag or a digest.
// https://github.com/opencontainers/distribution-spec
var (
	imageReference = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:/-]{0,511}(@sha256:[0-9a-f]{64})?$`)
	catalogueName  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	fileName       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	digestWords    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

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

// hidden are places of a workload's own kernel, over which nothing is laid.
var hidden = []string{"/proc", "/sys", "/dev"}

func volume(v residency.Value) (out placement.Volume, err error) {
	err = fields("a volume", "write {name: data, path: /data}", v, []string{"name", "path", "read_only", "shared"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "name":
			out.Name, err = placeName(f, v)
		case "path":
			if out.Path, err = inside(f, v, false); err == nil {
				for _, h := range hidden {
					if out.Path == h || strings.HasPrefix(out.Path, h+"/") {
						return jobError(v, "write another path, such as /data", "a volume cannot lie at %s", quoteWord(out.Path))
					}
				}
			}
		case "read_only":
			out.ReadOnly, err = boolean(f, v)
		case "shared":
			out.Shared, err = boolean(f, v)
		}
		return err
	})
	if err == nil && (out.Name == "" || out.Path == "") {
		err = jobError(v, "write {name: data, path: /data}", "a volume needs a name and a path")
	}
	return out, err
}

const inputHelp = "write inputs: [{name: model.bin, digest: \"sha256:...\", source: https://host/path}]"

// input is a file that is known by what it is, wherever it comes from.
func input(v residency.Value) (out placement.Input, err error) {
	err = fields("an input", inputHelp, v, []string{"name", "digest", "source"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "name":
			if out.Name, err = text(f, v, 64); err == nil && !fileName.MatchString(out.Name) {
				err = jobError(v, "use letters, digits, '.', '-' and '_', and begin with a letter or a digit", "name cannot be %s: it becomes a file's", quoteWord(out.Name))
			}
		case "digest":
			out.Digest, err = digest(f, v)
		case "source":
			if out.Source, err = text(f, v, 2048); err == nil && !plainPath(out.Source) {
				if u, urlErr := url.Parse(out.Source); urlErr != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
					err = jobError(v, "write https://host/path, or an absolute path below the node's image directory", "a source cannot be %s", quoteWord(out.Source))
				}
			}
		}
		return err
	})
	if err == nil && (out.Name == "" || out.Digest == "" || out.Source == "") {
		err = jobError(v, inputHelp, "an input needs a name, a digest and a source")
	}
	return out, err
}

func disk(v residency.Value) (out placement.Disk, err error) {
	err = fields("a disk", "write {name: data, size: 20GiB}", v, []string{"name", "size"}, func(f string, v residency.Value) (err error) {
		if f == "name" {
			out.Name, err = placeName(f, v)
		} else {
			out.Size, err = diskSize(f, v)
		}
		return err
	})
	if err == nil && (out.Name == "" || out.Size == 0) {
		err = jobError(v, "write {name: data, size: 20GiB}", "a disk needs a name and a size")
	}
	return out, err
}

func diskSize(name string, v residency.Value) (placement.Bytes, error) {
	n, err := memory(name, v)
	if err == nil && (n < placement.MiB || n > maxDiskSize) {
		err = jobError(v, "write 1MiB to 64TiB", "%s cannot be %s", name, quoteWord(v.Text))
	}
	return n, err
}

func ports(v residency.Value) ([]placement.Port, error) {
	const help = "write ports: [8080], or ports: [{name: http, port: 8080}]"
	return rows("ports", v, maxPorts, help, func(v residency.Value) (out placement.Port, err error) {
		if v.Kind == residency.Number {
			out.Port, err = integer("port", v, 1, 65535)
			return out, err
		}
		err = fields("a port", help, v, []string{"name", "port", "host"}, func(f string, v residency.Value) (err error) {
			switch f {
			case "name":
				out.Name, err = placeName(f, v)
			case "port":
				out.Port, err = integer(f, v, 1, 65535)
			case "host":
				out.Host, err = integer(f, v, lowestHost, 65535)
			}
			return err
		})
		if err == nil && out.Port == 0 {
			err = jobError(v, help, "a port needs its number")
		}
		return out, err
	})
}

func healthCheck(v residency.Value) (*placement.Health, error) {
	const help = `write health: {command: ["/bin/check"], interval: 30s}`
	out := new(placement.Health)
	err := fields("health", help, v, []string{"command", "interval", "timeout", "start", "retries"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "command":
			out.Command, err = texts(f, v)
		case "interval":
			out.Interval, err = duration(f, v)
		case "timeout":
			out.Timeout, err = duration(f, v)
		case "start":
			out.Start, err = duration(f, v)
		case "retries":
			out.Retries, err = integer(f, v, 1, 100)
		}
		return err
	})
	if err == nil && len(out.Command) == 0 {
		err = jobError(v, help, "health needs a command")
	}
	return out, err
}

func modelServer(v residency.Value) (*placement.Server, error) {
	const help = "write server: {kind: container, image: ..., port: 8000}"
	out := new(placement.Server)
	err := fields("server", help, v, []string{"kind", "command", "env", "image", "port", "start"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "kind":
			out.Kind, err = word(f, v, placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM, placement.KindFake)
		case "command":
			out.Command, err = texts(f, v)
		case "env":
			out.Env, err = environment(v)
		case "image":
			out.Image, err = text(f, v, 1024)
		case "port":
			out.Port, err = integer(f, v, 1, 65535)
		case "start":
			out.Start, err = duration(f, v)
		}
		return err
	})
	process := out.Kind == placement.KindProcess
	switch {
	case err != nil:
	case out.Kind == "":
		err = jobError(v, help, "server needs a kind: process, container, microvm or vm")
	case out.Port == 0:
		err = jobError(v, help, "server needs the port that it listens on")
	case process && len(out.Command) == 0:
		err = jobError(v, `add command: ["/usr/bin/server"]`, "a server of kind process needs a command")
	case process && out.Image != "":
		err = jobError(v, "write kind: container, or leave the image out", "a server of kind process takes no image")
	case !process && out.Image == "" && out.Kind != placement.KindFake:
		err = jobError(v, "add image: and what to start", "a server of kind %s needs an image", out.Kind)
	}
	return out, err
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
