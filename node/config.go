package node

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Config is all that a node is told. Everything else it learns from its
// region's ledger, or from its data directory.
type Config struct {
	// Node is the node's name, unique in its region.
	Node placement.NodeID
	// Data is the directory that keeps keys, ledger and tasks. One node, one
	// directory.
	Data string
	// QUIC is the address (host:port, UDP) at which other nodes reach this one,
	// API the URL (https://host:port) of its app listener.
	QUIC, API string
	// Hosts are further names and addresses that the app listener's certificate
	// shall carry; the host of API is always among them.
	Hosts []string
	// Site is the place within the region, for site: items of a tag.
	Site string
	// Labels are what jobs may rank by (cost, carbon), or rather be near.
	Labels map[string]string
	// Join is the join token of a node that has no identity yet.
	Join string
	// CPU and Memory are what the node offers to tasks; zero means what the
	// machine has.
	CPU    placement.MilliCPU
	Memory placement.Bytes
	// Witness is an outside witness of the region's log, "VKEY URL"; this node puts
	// it into the region's state when it starts. Empty means none.
	Witness string
	// Program is the version of this program.
	Program string

	// Heartbeat is raft's heartbeat and election timeout, Commit how late a
	// follower may learn of a commit on a quiet log.
	Heartbeat, Commit time.Duration
	// Silent is how long a node may be silent before it counts as unknown.
	Silent time.Duration
	// Moves is how many running tasks are moved away from this node at once, and how
	// many here; others wait.
	Moves int
	// Lease is how long a singleton may run without its leader.
	Lease time.Duration
	// Replace is how long a voter may be out of contact before a standby takes
	// its vote; zero means five minutes.
	Replace time.Duration
	// Summaries is how often other regions are asked for their summaries.
	Summaries time.Duration
	// CertificateTTL is the life of node certificates; zero means 24 hours.
	CertificateTTL time.Duration
	// SnapshotEvery is after how many raft entries a snapshot is taken; zero
	// means the default of package consensus.
	SnapshotEvery uint64
	// ReceiptsFor and ReceiptsMax bound what the node keeps of committed inference
	// receipts, the newest first: an age, and bytes on its disk. Zero means a year
	// and 64 GiB. What is erased the ledger shows as a root alone.
	ReceiptsFor time.Duration
	ReceiptsMax placement.Bytes
	// MetricsOpen shows /metrics to callers from this machine's loopback without
	// a token: for a scraper beside the node. Whoever can open a socket on the
	// machine sees the counts then, and behind a proxy on the machine everybody
	// does. Otherwise a scraper needs a bearer token of any role.
	MetricsOpen bool
}

// DefaultConfig gives production timings and nothing that names the node.
func DefaultConfig() Config {
	return Config{
		CPU:       placement.MilliCPU(runtime.NumCPU() * 1000),
		Heartbeat: 500 * time.Millisecond,
		Commit:    10 * time.Millisecond,
		Silent:    3 * time.Second,
		Moves:     2,
		Lease:     30 * time.Second,
		Summaries: 2 * time.Second,
		Program:   "dev",
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if !placement.ValidName(string(c.Node)) {
		errs = append(errs, fmt.Errorf("node %q is no name: use 1 to 63 lower-case letters, digits and hyphens", c.Node))
	}
	if c.Data == "" {
		errs = append(errs, errors.New("data is missing: name the directory that keeps the node's keys and ledger"))
	}
	if _, port, err := net.SplitHostPort(c.QUIC); err != nil || port == "" || port == "0" {
		errs = append(errs, fmt.Errorf("quic address %q must be host:port, as other nodes reach it", c.QUIC))
	}
	if u, err := url.Parse(c.API); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("api %q must be https://host:port, as clients reach it", c.API))
	}
	if c.Site != "" && !placement.ValidName(c.Site) {
		errs = append(errs, fmt.Errorf("site %q is no name: use 1 to 63 lower-case letters, digits and hyphens", c.Site))
	}
	if err := placement.CheckLabels(c.Labels); err != nil {
		errs = append(errs, err)
	}
	if c.Heartbeat <= 0 || c.Commit <= 0 || c.Silent <= 0 || c.Moves < 1 || c.Lease <= 0 || c.Summaries <= 0 {
		errs = append(errs, errors.New("the intervals must be positive"))
	}
	if c.ReceiptsFor < 0 || c.ReceiptsMax < 0 {
		errs = append(errs, errors.New("receipts are kept for a time and in bytes that are not negative"))
	}
	return errors.Join(errs...)
}

// hosts are the names and addresses of the app listener's certificate.
func (c Config) hosts() []string {
	hosts := append([]string{}, c.Hosts...)
	if u, err := url.Parse(c.API); err == nil {
		hosts = append(hosts, u.Hostname())
	}
	return hosts
}
