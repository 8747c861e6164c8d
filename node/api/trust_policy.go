package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// TrustPolicy is what an auditor is handed: a policy in the form of
// https://c2sp.org/tlog-policy that names the logs and witnesses of the region
// and its active peers, its outside witnesses, and the regions' roots. need is
// how many of the witnesses have to cosign; 0 means a majority of those that a
// log can have, as no region witnesses itself.
//
// It proves nothing by itself: the auditor compares the fingerprints in it with
// what each region's operator says by another way.
func TrustPolicy(v *state.View, need int) (string, error) {
	spec := ledger.PolicySpec{Quorum: ledger.NoQuorum}
	var members []string
	var comments strings.Builder
	fmt.Fprintf(&comments, "# trust policy of the mesh %s, as region %s knows it (c2sp.org/tlog-policy)\n", v.Self().Mesh, v.Self().ID)
	comments.WriteString("# Compare each fingerprint with what that region's operator tells you, in person or by telephone: a policy\n# that came with the evidence proves nothing.\n")
	for _, r := range v.Regions() {
		if !r.Self && r.State != placement.PeerActive {
			continue
		}
		fmt.Fprintf(&comments, "# region %s country %s fingerprint %s\n", r.ID, r.Facts.Country, r.Fingerprint)
		if err := addRoots(&spec, r); err != nil {
			return "", err
		}
		if err := addLogs(&spec, v, r); err != nil {
			return "", err
		}
		if r.WitnessKey == "" {
			continue
		}
		key, err := ledger.ParseVerifier(r.WitnessKey)
		if err != nil {
			return "", fmt.Errorf("the witness key of region %s: %w", r.ID, err)
		}
		spec.Witnesses = append(spec.Witnesses, ledger.PolicyWitness{Name: string(r.ID), Key: key, URL: doorPath(r, WitnessPrefix)})
		members = append(members, string(r.ID))
	}
	for _, w := range v.Witnesses() {
		key, err := ledger.ParseVerifier(w.Key)
		if err != nil {
			return "", fmt.Errorf("the key of witness %s: %w", w.Name, err)
		}
		spec.Witnesses = append(spec.Witnesses, ledger.PolicyWitness{Name: w.Name, Key: key, URL: w.URL})
		members = append(members, w.Name)
	}
	possible := len(members) - 1 // nobody witnesses the own log
	if need == 0 {
		need = possible/2 + 1
	}
	if possible > 0 {
		if need < 0 || need > possible {
			return "", &InputError{Code: CodeUsage, Message: fmt.Sprintf("a log of this mesh can have %d witnesses, not %d", possible, need), Help: "ask for 1 to " + strconv.Itoa(possible)}
		}
		spec.Groups, spec.Quorum = []ledger.PolicyGroup{{Name: "witnesses", Need: need, Members: members}}, "witnesses"
	}
	policy, err := ledger.NewPolicy(spec)
	if err != nil {
		return "", err
	}
	text := comments.String() + policy.Text()
	if _, err := ledger.ParsePolicy([]byte(text)); err != nil {
		return "", err
	}
	return text, nil
}

func addRoots(spec *ledger.PolicySpec, r *placement.Region) error {
	bundle, err := identity.ParseBundle(r.Bundle, identity.MaxBundle)
	if err != nil {
		return fmt.Errorf("the bundle of region %s: %w", r.ID, err)
	}
	for _, root := range bundle.Roots {
		spec.Roots = append(spec.Roots, ledger.PolicyRoot{Region: string(r.ID), DER: root.Raw})
	}
	return nil
}

// addLogs names the region's log and, as far as they are known, those that were
// begun in its place.
func addLogs(spec *ledger.PolicySpec, v *state.View, r *placement.Region) error {
	if r.LogKey == "" {
		return nil
	}
	key, err := ledger.ParseVerifier(r.LogKey)
	if err != nil {
		return fmt.Errorf("the log key of region %s: %w", r.ID, err)
	}
	spec.Logs = append(spec.Logs, ledger.PolicyLog{Key: key, URL: doorPath(r, Prefix+"/ledger")})
	for n := 1; ; n++ {
		origin := state.LogOrigin(r.ID, r.Mesh, n)
		if r.Self && n > v.Restarts || !r.Self && v.Witnessed(origin) == nil {
			return nil
		}
		again, err := key.Under(origin)
		if err != nil {
			return err
		}
		spec.Logs = append(spec.Logs, ledger.PolicyLog{Key: again, URL: doorPath(r, Prefix+"/ledger")})
	}
}

// doorPath is an address below a front door of the region; empty if none is known.
func doorPath(r *placement.Region, path string) string {
	for _, d := range r.FrontDoors {
		if u, err := url.Parse(d.API); err == nil && u.Scheme == "https" && u.Host != "" {
			return "https://" + u.Host + path
		}
	}
	return ""
}

// trustPolicy serves the policy, for an operator to hand over.
func trustPolicy(_ *Server, c *call) error {
	need := 0
	if word := c.r.URL.Query().Get("quorum"); word != "" {
		var err error
		if need, err = strconv.Atoi(word); err != nil || need < 1 {
			return &InputError{Code: CodeUsage, Message: "the parameter quorum cannot be " + quoteWord(word), Help: "write how many witnesses have to cosign"}
		}
	}
	text, err := TrustPolicy(c.view, need)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write([]byte(text)) // the caller is gone: nobody to tell
	return nil
}

// changeWitnesses puts and drops outside witnesses of the region's ledger.
func (s *Server) changeWitnesses(c *call, in RegionPolicyRequest) error {
	if in.Witness != nil {
		key, address, err := readWitness(*in.Witness)
		if err != nil {
			return &InputError{Code: "input.witness", Message: err.Error(), Help: "write it as 'VKEY URL': the witness's verifier key, and the address that its add-checkpoint is below"}
		}
		if _, _, err := c.propose(state.PutWitness{Key: key.String(), URL: address}, c.caller.Actor); err != nil {
			return err
		}
	}
	if in.DropWitness != nil {
		if _, _, err := c.propose(state.DropWitness{Name: *in.DropWitness}, c.caller.Actor); err != nil {
			return err
		}
	}
	return nil
}

func readWitness(text string) (*ledger.Verifier, string, error) {
	words := strings.Fields(text)
	if len(words) != 2 {
		return nil, "", fmt.Errorf("an outside witness is a verifier key, a space and an address, not %d words", len(words))
	}
	key, err := ledger.ParseVerifier(words[0])
	if err != nil {
		return nil, "", err
	}
	u, err := url.Parse(words[1])
	switch {
	case key.Algorithm() == ledger.Ed25519:
		return nil, "", fmt.Errorf("the key of %s is that of a log; a witness cosigns, with a key of type 0x04 or 0x06", key.Name())
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, "", fmt.Errorf("%s is no address of a witness", quoteWord(words[1]))
	}
	return key, strings.TrimSuffix(words[1], "/"), nil
}
