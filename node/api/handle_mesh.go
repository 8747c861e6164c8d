package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// hello tells a node's own clock, so that skew shows, and how far it is.
func hello(s *Server, c *call) error {
	out := Hello{Region: s.cfg.Region, Time: s.now()}
	if c.view != nil && c.caller.Kind == CallerNode {
		out.Index = c.view.Index()
		leader, ok := s.cfg.Ledger.Leader()
		if ok && leader == s.cfg.Self {
			// Another node reads by this index: a majority confirms it first.
			index, err := s.cfg.Ledger.ReadIndex(c.r.Context())
			if err != nil {
				return fmt.Errorf("read the region's index for %s: %w", c.caller.Node, err)
			}
			out.Index, out.Leader = index, true
		}
	}
	return c.writeJSON(http.StatusOK, out)
}

// maxCommand bounds an encoded command.
const maxCommand = 32 << 20

// proposeRaw takes a command that another node of the region encoded. Voters
// and standbys act for the region; a worker speaks of itself alone.
func proposeRaw(s *Server, c *call) error {
	raw, err := c.readBody(maxCommand)
	if err != nil {
		return err
	}
	head, cmd, err := state.Decode(raw)
	if err != nil {
		return &InputError{Code: CodeBody, Message: "the command cannot be read: " + shortError(err), Help: "the two nodes may run different versions: sovmesh version"}
	}
	// The ledger records the actor for ever: a worker signs with its own name.
	if c.caller.Role == placement.RoleWorker && head.Actor != c.caller.Actor {
		return newProblem(http.StatusForbidden, CodeRole, fmt.Sprintf("node %s, a worker, may not propose as %s", c.caller.Node, quoteWord(head.Actor)), "a worker speaks for itself, nobody else")
	}
	if !mayPropose(c.caller, cmd) {
		return newProblem(http.StatusForbidden, CodeRole, fmt.Sprintf("node %s, a %s, may not propose %s", c.caller.Node, c.caller.Role, cmd.Kind()), "a worker reports about itself, nothing else")
	}
	res, err := s.cfg.Ledger.ProposeRaw(c.r.Context(), raw)
	if err != nil {
		return fmt.Errorf("propose for %s: %w", c.caller.Node, err)
	}
	return c.writeJSON(http.StatusOK, res)
}

func mayPropose(c *Caller, cmd state.Command) bool {
	if c.Kind != CallerNode {
		return false
	}
	if c.Role == placement.RoleVoter || c.Role == placement.RoleStandby {
		return true
	}
	switch cmd := cmd.(type) {
	case state.ReportTasks:
		return cmd.Node == c.Node
	case state.MoveTask:
		return cmd.Node == c.Node
	case state.NoteTasks:
		return cmd.Node == c.Node
	case state.ReportInventory:
		return cmd.Node == c.Node
	case state.CommitSegment:
		return cmd.Node == c.Node
	}
	return false
}

// renewCertificate gives the caller new certificates under its own name.
func renewCertificate(s *Server, c *call) error {
	var in CertificateRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	out := CertificateAnswer{}
	if out.Chain, out.Serial, out.NotAfter, err = a.IssueNode(c.r.Context(), in.CSR, c.caller.Node); err != nil {
		return &InputError{Code: CodeBody, Message: "the certificate request is not acceptable: " + err.Error(), Help: "make a fresh ECDSA P-256 key"}
	}
	own := ""
	if n := c.view.Node(c.caller.Node); n != nil {
		own = n.Host()
	}
	if err := ownHosts(c.view, c.caller.Node, own, in.Hosts); err != nil {
		return err
	}
	if len(in.ServingCSR) > 0 {
		if out.ServingChain, err = a.IssueServing(c.r.Context(), in.ServingCSR, in.Hosts); err != nil {
			return &InputError{Code: CodeBody, Message: "the serving certificate request is not acceptable: " + err.Error(), Help: "send DNS names and IP addresses as hosts"}
		}
	}
	if out.Bundle, err = a.Bundle().Marshal(); err != nil {
		return fmt.Errorf("write the region's bundle: %w", err)
	}
	if _, _, err := c.propose(state.IssueCertificate{Node: c.caller.Node, Serial: out.Serial, NotAfter: out.NotAfter, SHA256: digestOf(out.Chain)}, c.caller.Actor); err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, out)
}

// digestOf is the SHA-256 of the first certificate of a chain, as its leaf shows it.
func digestOf(chain [][]byte) string {
	if len(chain) == 0 {
		return ""
	}
	sum := sha256.Sum256(chain[0])
	return hex.EncodeToString(sum[:])
}

// ownHosts refuses a serving certificate for the address of another node: with
// one, a node could take that node's tokens and bodies. own is the host that the
// ledger has of the node, or that it joins with.
func ownHosts(v *state.View, self placement.NodeID, own string, hosts []string) error {
	for _, n := range v.Nodes() {
		h := n.Host()
		if n.ID == self || h == "" || h == own {
			continue
		}
		if slices.ContainsFunc(hosts, func(w string) bool { return placement.CanonicalHost(w) == h }) {
			return newProblem(http.StatusForbidden, CodeRole, h+" is the address of another node", "ask for the names and addresses of this node alone")
		}
	}
	return nil
}

// authoritySecrets hands the CA to a node that the raft configuration already
// has as a voter. A role in the ledger is only what the node shall become.
func authoritySecrets(s *Server, c *call) error {
	if s.cfg.Votes == nil || !s.cfg.Votes(c.caller.Node) {
		return newProblem(http.StatusForbidden, CodeRole, "node "+string(c.caller.Node)+" does not vote in the raft configuration yet", "wait until it votes: sovmesh node list")
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	secrets, err := a.Secrets()
	if err != nil {
		return fmt.Errorf("read the CA: %w", err)
	}
	s.cfg.Log.Info("the CA was handed to a voter", "node", c.caller.Node)
	return c.writeJSON(http.StatusOK, AuthoritySecrets{CA: secrets, LogKeys: a.LogSecrets()})
}

// summaryLife is how long a summary counts.
const summaryLife = 30 * time.Second
