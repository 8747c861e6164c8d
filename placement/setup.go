package placement

import (
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Setup is what a job says of its workload beyond its command and its size: the
// image it runs from, what it may reach, its disks and its files. In JSON its
// fields stand beside those of [JobSpec]. A nil Setup says nothing.
type Setup struct {
	// ImageDigest is "sha256:" and 64 hexadecimal digits: of a vm's image file, or
	// of an OCI image's manifest. What does not match it is not started.
	ImageDigest string `json:"image_digest,omitempty"`
	// User is who the command runs as, in the place of the image's own: uid or uid:gid.
	User string `json:"user,omitempty"`
	// WorkDir is where the command begins, in the place of the image's own.
	WorkDir string `json:"workdir,omitempty"`
	// WritableRoot lets the workload write everywhere in its own root; without it
	// the root is read-only and only volumes and /tmp take files.
	WritableRoot bool `json:"writable_root,omitempty"`
	// Capabilities are those that are kept, by their names without CAP_; none else are.
	Capabilities []string `json:"capabilities,omitempty"`
	// Pids bounds the processes of the task; 0 is [DefaultPids].
	Pids    int      `json:"pids,omitempty"`
	Volumes []Volume `json:"volumes,omitempty"`
	Ports   []Port   `json:"ports,omitempty"`
	Network *Network `json:"network,omitempty"`
	Health  *Health  `json:"health,omitempty"`
	// Disks are a vm's beside the one it boots from.
	Disks []Disk `json:"disks,omitempty"`
	// RootSize is how large a vm's first disk is made; 0 is as large as its image.
	RootSize Bytes `json:"root_size,omitempty"`
	// CloudInit is a vm's user-data, beginning with "#cloud-config" or "#!"; what
	// was written as a mapping stands here as JSON, which is YAML too.
	CloudInit string `json:"cloud_init,omitempty"`
	// CloudNetwork is a vm's network-config; empty leaves it to the image.
	CloudNetwork string `json:"cloud_network,omitempty"`
	Boot         Boot   `json:"boot,omitempty"`
	// Server is the model server that an inference job brings along.
	Server *Server `json:"server,omitempty"`
	// Secrets are handed to the workload as files, by name. Outside of the way
	// from its author to the region that runs it a value is sealed to that region;
	// people who read the job see the names alone.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Inputs are files that the workload finds read-only, by name.
	Inputs []Input `json:"inputs,omitempty"`
	// Outputs: the workload has a directory whose files are kept when it has ended;
	// nil for none.
	Outputs *Outputs `json:"outputs,omitempty"`
	// Drift says what is done about a difference between what was declared and
	// what runs; empty is report.
	Drift Drift `json:"drift,omitempty"`
}

// DefaultPids bounds the processes of a task that says nothing of them.
const DefaultPids = 4096

// Volume is a directory of the node that outlives the task: one of its job and
// name, kept until the job is forgotten. A task that moves finds it empty.
type Volume struct {
	Name     string `json:"name"`
	Path     string `json:"path"` // in the workload, absolute
	ReadOnly bool   `json:"read_only,omitempty"`
	// Shared: all copies of the job on a node have it at the same time, as volumes of
	// processes and containers always are; without it a micro-VM's is its copy's own.
	Shared bool `json:"shared,omitempty"`
}

// Input is a file that a job needs, known by what it is: Source is a path below the
// node's image directory or an https URL, and gives the bytes of Digest or nothing.
type Input struct {
	Name   string `json:"name"`   // of the file
	Digest string `json:"digest"` // sha256:...
	Source string `json:"source"`
}

// Port is a TCP port that the workload listens on. It is reached through the
// mesh, by those who may read the job; Host, if set, opens it on the node's
// loopback too.
type Port struct {
	Name string `json:"name,omitempty"`
	Port int    `json:"port"`
	Host int    `json:"host,omitempty"`
}

// Network says what the workload may reach. Everything else is refused, counted
// and recorded.
type Network struct {
	// Host gives the workload the node's own network: it may reach what the node
	// may. Nodes refuse it unless their operator allowed it.
	Host bool `json:"host,omitempty"`
	// Allow are an address or prefix with or without a port ("192.0.2.7:443",
	// "192.0.2.0/24"), "region:NAME" (the front doors of a region), or
	// "service:NAME" (the ports of the tenant's running services by that name, in
	// its own region or another one that both jobs' tags allow).
	Allow []string `json:"allow,omitempty"`
	// DNS are resolvers of the region that the workload may ask; none by default.
	DNS []string `json:"dns,omitempty"`
}

// Health is a command that is run in the workload; it has failed when it ends
// with anything but 0 Retries times in a row.
type Health struct {
	Command  []string `json:"command"`
	Interval Duration `json:"interval,omitempty"`
	Timeout  Duration `json:"timeout,omitempty"`
	Start    Duration `json:"start,omitempty"` // failures so soon after the start do not count
	Retries  int      `json:"retries,omitempty"`
}

// Defaults fills in what was left out: 30 s, 10 s, 3 in a row.
func (h Health) Defaults() Health {
	if h.Interval <= 0 {
		h.Interval = Duration(30 * time.Second)
	}
	if h.Timeout <= 0 {
		h.Timeout = Duration(10 * time.Second)
	}
	if h.Retries <= 0 {
		h.Retries = 3
	}
	return h
}

// Disk is a vm's disk that outlives the task, as a [Volume] does.
type Disk struct {
	Name string `json:"name"`
	Size Bytes  `json:"size"`
}

// Boot is how a vm starts.
type Boot string

// The ways to start: firmware of the older or the newer kind, or a kernel that
// the node hands to the machine itself. Empty is the image's own choice.
const (
	BootBIOS   Boot = "bios"
	BootUEFI   Boot = "uefi"
	BootDirect Boot = "direct"
)

// Server is a model server that speaks the OpenAI protocol on Port.
type Server struct {
	Kind    Kind              `json:"kind"` // process, container, microvm or vm
	Command []string          `json:"command,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Image   string            `json:"image,omitempty"`
	Port    int               `json:"port"`
	// Start bounds the time until it is ready: a model has to be loaded first.
	Start Duration `json:"start,omitempty"`
}

// SecretPurpose binds a sealed secret to its job and its name.
func SecretPurpose(job JobID, name string) string { return "secret " + string(job) + " " + name }

// HiddenSecret stands in the place of a secret's value.
const HiddenSecret = "sealed"

// Hidden is the setup without the values of its secrets.
func (s *Setup) Hidden() *Setup {
	if s == nil || len(s.Secrets) == 0 {
		return s
	}
	out := *s
	out.Secrets = make(map[string]string, len(s.Secrets))
	for name := range s.Secrets {
		out.Secrets[name] = HiddenSecret
	}
	return &out
}

// ServerKind is the kind of the model server that the job brings along; empty if
// it brings none.
func (s *JobSpec) ServerKind() Kind {
	if s.Setup == nil || s.Setup.Server == nil {
		return ""
	}
	return s.Setup.Server.Kind
}

// TaskURL names a port of a task to whoever runs it: it is no address, and only
// the task's own node knows how to get there.
func TaskURL(id TaskID, port int) string {
	return "task://" + net.JoinHostPort(hex.EncodeToString([]byte(id)), strconv.Itoa(port))
}

// ParseTaskAddr reads the host:port of a [TaskURL].
func ParseTaskAddr(addr string) (TaskID, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	id, err := hex.DecodeString(host)
	if err != nil || len(id) == 0 {
		return "", 0, fmt.Errorf("%q names no task", host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%q is no port", port)
	}
	return TaskID(id), int(n), nil
}

// Drift is what is done about drift.
type Drift string

// Report writes findings to the ledger; enforce starts the task anew as well.
const (
	DriftOff     Drift = "off"
	DriftReport  Drift = "report"
	DriftEnforce Drift = "enforce"
)
