package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/witness"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// agentKeys are the keys of an agent's config file. Facts about the region are
// not among them: they stand in the region's ledger.
var agentKeys = []string{"node", "data", "listen", "advertise", "hosts", "site", "labels", "join", "join_file", "gpus", "cpu", "memory", "drivers", "images", "engine", "registries", "microvm", "tasks", "metrics", "witness", "receipts", "log"}

// agentConfig is a config file, read.
type agentConfig struct {
	node.Config
	listen    string
	gpus      string
	drivers   []string // nil: every one that works here
	workloads workloadRules
	tasks     taskRules
	level     slog.Level
	json      bool // log in JSON
	// noJoinFile is why join_file could not be read; it matters only to a node
	// that has not joined yet.
	noJoinFile error
}

// readAgentConfig reads the file and reports every problem in it at once.
// Relative paths start at the file's own folder.
func readAgentConfig(path string) (agentConfig, error) {
	cfg := agentConfig{Config: node.DefaultConfig(), gpus: "auto"}
	cfg.Program = version
	data, err := readBounded(path, maxYAMLFile)
	if err != nil {
		return cfg, err
	}
	tree, err := decodeYAML(data, path, "input.config")
	if err != nil {
		return cfg, err
	}
	a := agentReader{cfg: &cfg, keyReader: keyReader{name: path, code: "input.config"}, folder: filepath.Dir(path), at: map[string]residency.Value{}}
	a.each(tree, "", agentKeys, func(key string, v residency.Value) {
		a.at[key] = v
		a.key(key, v)
	})
	a.together(tree)
	return cfg, a.err()
}

type agentReader struct {
	keyReader
	cfg    *agentConfig
	folder string
	at     map[string]residency.Value // where each key stands

	advertise string
}

func (a *agentReader) key(key string, v residency.Value) {
	c := a.cfg
	switch key {
	case "node":
		c.Node = placement.NodeID(a.placeName(v, key))
	case "site":
		c.Site = a.placeName(v, key)
	case "labels":
		a.labels(v)
	case "data":
		c.Data = a.path(v, key)
	case "listen":
		c.listen = a.address(v, key)
	case "advertise":
		a.advertise = a.address(v, key)
	case "hosts":
		c.Hosts = a.hosts(v)
	case "join":
		c.Join = a.token(v, a.text(v, key))
	case "join_file":
		a.joinFile(v)
	case "gpus":
		c.gpus = a.text(v, key)
		if _, err := gpu.Parse(c.gpus, "x"); c.gpus != gpusAuto && c.gpus != gpusNVML && err != nil {
			a.fault(v, "write auto, nvml, none or sim:8xH100; "+api.HintOf(err), "%s", err)
		}
	case "cpu":
		n, err := placement.ParseCPU(a.text(v, key))
		if c.CPU = n; err != nil || n <= 0 {
			a.fault(v, "write cores or thousandths of one, as in 16 or 500m; leave it out for all", "cpu cannot be %s", quoteWord(v.Text))
		}
	case "memory":
		n, err := placement.ParseBytes(a.text(v, key))
		if c.Memory = n; err != nil || n <= 0 {
			a.fault(v, "write a number and a unit, as in 64GiB; leave it out for all", "memory cannot be %s", quoteWord(v.Text))
		}
	case "drivers":
		a.drivers(v)
	case "images":
		for i, dir := range a.list(v, "images") {
			if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
				a.fault(v.List[i], "write a directory by its whole path", "images cannot have %s", quoteWord(dir))
				continue
			}
			c.workloads.images = append(c.workloads.images, filepath.Clean(dir))
		}
	case "engine":
		if c.workloads.engine = a.text(v, key); !strings.HasPrefix(c.workloads.engine, "unix:///") {
			a.fault(v, "write the engine's socket, as in unix:///run/docker.sock", "engine cannot be %s", quoteWord(c.workloads.engine))
		}
	case "registries":
		a.registries(v)
	case "microvm":
		a.microVMs(v)
	case "tasks":
		a.tasks(v)
	case "metrics":
		word := a.text(v, key)
		if c.MetricsOpen = word == "open"; word != "open" && word != "token" {
			a.fault(v, "write token (a role that may read), or open (also callers on this machine's loopback)", "metrics cannot be %s", quoteWord(v.Text))
		}
	case "witness":
		c.Witness = a.text(v, key)
		if _, _, err := witness.ParseOutside(c.Witness); err != nil {
			a.fault(v, "write one line: its verifier key, a space, the address that its add-checkpoint is below", "%s", err)
		}
	case "receipts":
		a.receipts(v)
	case "log":
		a.logging(v)
	}
}

func (a *agentReader) placeName(v residency.Value, key string) string {
	s := a.text(v, key)
	if !placement.ValidName(s) {
		a.fault(v, "use 1 to 63 lower-case letters, digits and hyphens", "%s cannot be %s", key, quoteWord(s))
	}
	return s
}

// labels are what the scheduler may rank by, and what a job may be near.
func (a *agentReader) labels(v residency.Value) {
	a.cfg.Labels = map[string]string{}
	for _, f := range v.Fields {
		a.cfg.Labels[f.Name] = f.Value.Text
		if f.Value.Kind == residency.Map || f.Value.Kind == residency.List {
			a.fault(f.Value, "write labels: {cost: 120, carbon: 300, disk: ssd}", "label %s cannot be %s", f.Name, f.Value.Kind)
		}
	}
	if err := placement.CheckLabels(a.cfg.Labels); v.Kind != residency.Map || err != nil {
		a.fault(v, "write labels: {cost: 120, carbon: 300, disk: ssd}", "labels are not possible: %v", err)
	}
}

func (a *agentReader) path(v residency.Value, key string) string {
	s := a.text(v, key)
	if s == "" {
		a.fault(v, "name a place on a local disk", "%s is empty", key)
		return ""
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(a.folder, s)
	}
	// The config itself may have been named by a relative path.
	abs, err := filepath.Abs(s)
	if err != nil {
		a.fault(v, "start from a directory that exists", "%s %q: %v", key, s, err)
		return ""
	}
	return abs
}

func (a *agentReader) address(v residency.Value, key string) string {
	s := a.text(v, key)
	if !listenable(s) || strings.HasSuffix(s, ":0") {
		a.fault(v, "write host:port, as in 0.0.0.0:7443", "%s cannot be %s", key, quoteWord(s))
		return ""
	}
	return s
}

// hosts are further names and addresses of the app listener's certificate.
func (a *agentReader) hosts(v residency.Value) []string {
	hosts := a.list(v, "hosts")
	for i, h := range hosts {
		name := strings.Trim(strings.ToLower(h), "abcdefghijklmnopqrstuvwxyz0123456789.-") == "" && h != ""
		if !name && net.ParseIP(h) == nil {
			a.fault(v.List[i], "write a DNS name or an IP address, without port", "%s is no host", quoteWord(h))
		}
	}
	return hosts
}

func (a *agentReader) token(v residency.Value, s string) string {
	if _, err := identity.ParseJoinToken(s); err != nil {
		a.fault(v, "copy all of it, without line breaks; or make another: sovmesh node token create", "%s", err)
		return ""
	}
	return strings.TrimSpace(s)
}

func (a *agentReader) joinFile(v residency.Value) {
	path := a.path(v, "join_file")
	if path == "" {
		return
	}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.cfg.noJoinFile = inputFile(err, "put a join token into it: sovmesh node token create")
	case err != nil:
		a.fault(v, "make it readable for the agent's user", "%s", err)
	default:
		a.cfg.Join = a.token(v, string(data))
	}
}

func (a *agentReader) drivers(v residency.Value) {
	a.cfg.drivers = []string{}
	for i, name := range a.list(v, "drivers") {
		if !slices.Contains(driverNames, name) {
			a.fault(v.List[i], "this program has: "+strings.Join(driverNames, ", "), "there is no driver %s", quoteWord(name))
		}
		a.cfg.drivers = append(a.cfg.drivers, name)
	}
}

// mostMoves bounds how many tasks one node moves at once: each copies memory.
const mostMoves = 64

// tasks is what tasks are given of the node, and how many of them move at once.
func (a *agentReader) tasks(v residency.Value) {
	a.each(v, "tasks", []string{"host_network", "moves", "resolvers", "share"}, func(key string, v residency.Value) {
		switch key {
		case "host_network":
			a.cfg.tasks.hostNetwork = a.word(v, "tasks.host_network", "refuse", "allow") == "allow"
			return
		case "moves":
			n, err := strconv.Atoi(a.text(v, "tasks.moves"))
			if a.cfg.Moves = n; err != nil || n < 1 || n > mostMoves {
				a.fault(v, fmt.Sprintf("write a number from 1 to %d; leave it out for two", mostMoves), "tasks.moves cannot be %s", quoteWord(v.Text))
			}
			return
		case "resolvers":
			for i, text := range a.list(v, "tasks.resolvers") {
				addr, err := netip.ParseAddr(text)
				if err != nil || addr.Zone() != "" {
					a.fault(v.List[i], "write the address of a resolver in this region", "tasks.resolvers cannot have %s", quoteWord(text))
					continue
				}
				a.cfg.tasks.resolvers = append(a.cfg.tasks.resolvers, addr.Unmap())
			}
			return
		}
		for i, path := range a.list(v, "tasks.share") {
			if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
				a.fault(v.List[i], "write a directory of the node by its whole path, and not all of it", "tasks.share cannot have %s", quoteWord(path))
				continue
			}
			a.cfg.tasks.share = append(a.cfg.tasks.share, filepath.Clean(path))
		}
	})
}

// receipts is how long, and in how many bytes, receipts of inference are kept.
func (a *agentReader) receipts(v residency.Value) {
	a.each(v, "receipts", []string{"keep", "most"}, func(key string, v residency.Value) {
		if key == "most" {
			n, err := placement.ParseBytes(a.text(v, "receipts.most"))
			if a.cfg.ReceiptsMax = n; err != nil || n <= 0 {
				a.fault(v, "write a number and a unit, as in 64GiB; leave it out for that", "receipts.most cannot be %s", quoteWord(v.Text))
			}
			return
		}
		d, err := time.ParseDuration(a.text(v, "receipts.keep"))
		if a.cfg.ReceiptsFor = d; err != nil || d < time.Hour {
			a.fault(v, "write hours, one at least, as in 4400h for half a year; leave it out for a year", "receipts.keep cannot be %s", quoteWord(v.Text))
		}
	})
}

func (a *agentReader) logging(v residency.Value) {
	a.each(v, "log", []string{"level", "format"}, func(key string, v residency.Value) {
		if key == "format" {
			a.cfg.json = a.word(v, key, "text", "json") == "json"
			return
		}
		if word := a.word(v, key, "debug", "info", "warn", "error"); word != "" {
			_ = a.cfg.level.UnmarshalText([]byte(word)) // a word of none of these was reported
		}
	})
}

// together looks at what several keys say, and at what is missing.
func (a *agentReader) together(tree residency.Value) {
	top := residency.Value{Line: max(tree.Line, 1), Column: max(tree.Column, 1)}
	for _, must := range []struct{ key, help string }{
		{"node", "add node: NAME, unique in its region"}, {"data", "add data: DIR, on a local disk"}, {"listen", "add listen: HOST:PORT, for UDP and TCP"},
	} {
		if _, ok := a.at[must.key]; !ok && tree.Kind == residency.Map {
			a.fault(top, must.help, "%s is missing", must.key)
		}
	}
	if _, both := a.at["join_file"]; both && a.at["join"].Line > 0 {
		a.fault(a.at["join_file"], "keep one of them", "join and join_file stand together")
	}
	if a.cfg.listen == "" {
		return
	}
	addr, err := advertised(a.cfg.listen, a.advertise)
	if err != nil {
		at, key := a.at["listen"], "add advertise: HOST:PORT, the address at which other machines reach it"
		if _, ok := a.at["advertise"]; ok {
			at, key = a.at["advertise"], "write an address that other machines can reach"
		}
		a.fault(at, key, "%s", err)
		return
	}
	a.cfg.QUIC, a.cfg.API = addr, "https://"+addr
}
