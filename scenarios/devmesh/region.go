package devmesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// region is one region of the mesh and its operator.
type region struct {
	Region
	mesh   *Mesh
	dir    string
	nodes  []*Node
	file   *regionFile
	client *api.Client // the founder's, at the first node
	ca     string      // PEM
	// session is a token of every role, made at each start.
	session string
}

// code is the country, or the subdivision where one was named.
func (r *region) code() string {
	if r.Subdivision != "" {
		return r.Subdivision
	}
	return r.Country
}

func (r *region) facts() placement.RegionFacts {
	return placement.RegionFacts{
		Country: r.Country, Subdivision: r.Subdivision,
		Operator:  placement.Operator{Name: "operator of " + string(r.Name), Home: r.Country, Parent: "none"},
		Assurance: placement.Assurance{Location: "documented", Operator: "documented", AsOf: today()},
	}
}

// raise founds the region unless it is there, starts its nodes and lets those
// that are new join.
func (r *region) raise(ctx context.Context) error {
	if err := r.found(); err != nil {
		return fmt.Errorf("region %s: %w", r.Name, err)
	}
	cfg := api.ClientConfig{Addr: r.nodes[0].API, Token: r.file.Token, CA: []byte(r.ca)}
	var err error
	if r.client, err = api.NewClient(cfg); err != nil {
		return err
	}
	var fresh []*Node
	for _, n := range r.nodes {
		if !slices.Contains(r.file.Joined, n.Name) {
			fresh = append(fresh, n)
			continue
		}
		if err := n.start(); err != nil {
			return err
		}
	}
	if err := r.nodes[0].wait(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range fresh {
		g.Go(func() error { return r.join(gctx, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := n.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// found makes the region on its first node, once.
func (r *region) found() error {
	if r.file.Founded {
		return nil
	}
	first := r.nodes[0]
	made, err := node.Found(first.config(""), node.Founding{Region: r.Name, Mesh: r.mesh.cfg.Mesh, Facts: r.facts(), Now: time.Now()})
	if err != nil {
		return err
	}
	r.ca = made.CA
	return r.mesh.change(func() {
		*r.file = regionFile{Country: r.code(), Founded: true, Token: made.Token, CA: made.CA, Fingerprint: made.Fingerprint, Joined: []placement.NodeID{first.Name}}
	})
}

// join lets one node in, by a token made for its name, and starts it.
func (r *region) join(ctx context.Context, n *Node) error {
	token, err := retry(ctx, func(ctx context.Context) (*api.NodeToken, error) {
		return r.client.CreateNodeToken(ctx, api.NodeTokenRequest{Node: n.Name})
	})
	if err != nil {
		return fmt.Errorf("join token for %s: %w", n.Name, err)
	}
	cfg := n.config(token.Token)
	deps, err := n.deps(cfg)
	if err != nil {
		return err
	}
	if err := node.Join(ctx, cfg, deps); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	if err := r.mesh.change(func() { r.file.Joined = append(r.file.Joined, n.Name) }); err != nil {
		return err
	}
	return n.start()
}

// federate joins every pair of regions that is not joined yet. The program
// stands for both operators: it compares the fingerprints that founding each
// region showed, which never went over the network.
func (m *Mesh) federate(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, a := range m.regions {
		for _, b := range m.regions[i+1:] {
			g.Go(func() error {
				if err := federate(gctx, a, b); err != nil {
					return fmt.Errorf("federate %s and %s: %w", a.Name, b.Name, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

func federate(ctx context.Context, a, b *region) error {
	known, err := retry(ctx, func(ctx context.Context) (*api.Page[api.RegionStatus], error) {
		return a.client.Regions(ctx, api.ListOptions{})
	})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(known.Items, func(s api.RegionStatus) bool { return s.ID == b.Name && s.State == placement.PeerActive }) {
		return nil
	}
	invitation, err := retry(ctx, func(ctx context.Context) (*api.Invitation, error) { return a.client.InviteRegion(ctx, b.Name) })
	if err != nil {
		return err
	}
	if invitation.Fingerprint != a.file.Fingerprint {
		return fmt.Errorf("the invitation of %s shows another fingerprint than its founding did", a.Name)
	}
	joined, err := b.client.JoinRegion(ctx, api.JoinRegionRequest{Code: invitation.Code, Fingerprint: a.file.Fingerprint})
	if err != nil {
		return err
	}
	if joined.Fingerprint != b.file.Fingerprint {
		return fmt.Errorf("%s answered with another fingerprint than its founding showed", b.Name)
	}
	_, err = a.client.ApproveRegion(ctx, b.Name, b.file.Fingerprint)
	return err
}

// settleWithin bounds the wait for a mesh that is complete to say so.
const settleWithin = 60 * time.Second

// settle returns once every node of every region serves, and sees every other
// node of its region and every other region.
func (m *Mesh) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range m.regions {
		for _, n := range r.nodes {
			g.Go(func() error {
				missing, err := n.await(ctx, r.file.Token, len(m.regions))
				if err != nil && missing != "" {
					return fmt.Errorf("the mesh was not complete after %s: node %s: %s; see %s.log", settleWithin, n.Name, missing, n.Dir)
				}
				return err
			})
		}
	}
	return g.Wait()
}

// await asks the node until it lacks nothing.
func (n *Node) await(ctx context.Context, token string, regions int) (missing string, err error) {
	client, err := api.NewClient(api.ClientConfig{Addr: n.API, Token: token, CA: []byte(n.region.ca), Timeout: 3 * time.Second})
	if err != nil {
		return "", err
	}
	defer client.Close()
	for {
		if missing = n.missing(ctx, client, regions); missing == "" {
			return "", nil
		}
		select {
		case <-ctx.Done():
			return missing, context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

const pollEvery = 30 * time.Millisecond

func (n *Node) missing(ctx context.Context, client *api.Client, regions int) string {
	if err := client.Ready(ctx); err != nil {
		return err.Error()
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err.Error()
	}
	nodes := 0
	for where, count := range status.Nodes {
		if where != api.LinkUnknown {
			nodes += count
		}
	}
	if want := len(n.region.nodes); nodes < want {
		return fmt.Sprintf("it sees %d of %d nodes", nodes, want)
	}
	up := 0
	var without []string
	for _, l := range status.Regions {
		if l.Link == api.LinkUp || l.Link == api.LinkSelf || l.Region == n.Region {
			up++
		} else {
			without = append(without, string(l.Region))
		}
	}
	if len(without) > 0 {
		return "no contact yet with " + strings.Join(without, ", ")
	}
	if up < regions-1 {
		return fmt.Sprintf("it knows %d of %d other regions", up, regions-1)
	}
	return ""
}

// retry asks again while the region has no leader: at a start that is ordinary.
func retry[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	for {
		out, err := ask(ctx)
		var p *api.Problem
		if err == nil || !errors.As(err, &p) || p.Status < 500 {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, errors.Join(err, context.Cause(ctx))
		case <-time.After(pollEvery):
		}
	}
}

// sessionTTL is how long the token of a start is good for.
const sessionTTL = 30 * 24 * time.Hour

// hand makes the token of this start and writes what people and programs need
// to reach each region.
func (m *Mesh) hand(ctx context.Context) error {
	for _, r := range m.regions {
		made, err := retry(ctx, func(ctx context.Context) (*api.NewToken, error) {
			return r.client.CreateToken(ctx, api.TokenRequest{
				Roles:  []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleOperator, state.RoleAuditor, state.RoleAdmin},
				Tenant: "default", AllowAny: true, TTL: placement.Duration(sessionTTL),
			})
		})
		if err != nil {
			return fmt.Errorf("token of region %s: %w", r.Name, err)
		}
		r.session = made.Secret
		if err := writeFile(r.caPath(), []byte(r.ca)); err != nil {
			return err
		}
		for _, n := range r.nodes {
			if err := n.knows(ctx); err != nil {
				return err
			}
		}
	}
	policy, err := m.policy()
	if err != nil {
		return err
	}
	return writeFile(m.policyPath(), []byte(policy))
}

// knows returns once the node has heard of the region's token: a follower is a
// moment behind the leader, and nobody shall meet that moment.
func (n *Node) knows(ctx context.Context) error {
	client, err := api.NewClient(n.mesh.Access(n))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		_, err := client.Whoami(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s does not take its region's new token: %w", n.Name, err)
		case <-time.After(pollEvery):
		}
	}
}

// SpecError is a list of regions that cannot be read.
type SpecError struct{ Spec, Why string }

func (e *SpecError) Error() string {
	return fmt.Sprintf("the regions %q cannot be read: %s", e.Spec, e.Why)
}

// Hint shows a list that can be read.
func (e *SpecError) Hint() string {
	return "write NAME:COUNTRY, with commas between: fra-1:FR,ber-1:DE,iad-1:US; a subdivision stands for its country: tor-1:CA-ON"
}

// ParseRegions reads "fra-1:FR,ber-1:DE,iad-1:US". Every region has the default
// devices. Its error is a [*SpecError].
func ParseRegions(spec string) ([]Region, error) {
	var out []Region
	seen := map[placement.RegionID]bool{}
	for item := range strings.SplitSeq(spec, ",") {
		name, code, ok := strings.Cut(strings.TrimSpace(item), ":")
		if !ok {
			return nil, &SpecError{spec, fmt.Sprintf("%q has no colon between a name and a country", item)}
		}
		r := Region{Name: placement.RegionID(name), Devices: DefaultDevices}
		if !placement.ValidName(name) {
			return nil, &SpecError{spec, fmt.Sprintf("%q is no name: use 1 to 63 lower-case letters, digits and hyphens", name)}
		}
		if seen[r.Name] {
			return nil, &SpecError{spec, "the name " + name + " stands there twice"}
		}
		seen[r.Name] = true
		var err error
		if r.Country, r.Subdivision, err = territory(code); err != nil {
			return nil, &SpecError{spec, err.Error()}
		}
		out = append(out, r)
	}
	if len(out) > MaxRegions {
		return nil, &SpecError{spec, fmt.Sprintf("%d regions are more than %d", len(out), MaxRegions)}
	}
	return out, nil
}

// territory reads a country, or a subdivision with its country.
func territory(code string) (country, subdivision string, err error) {
	pack := residency.Embedded()
	tag, _, err := residency.Parse(code, pack)
	if err != nil {
		return "", "", err
	}
	text := tag.Canonical()
	country, _, divided := strings.Cut(text, "-")
	if !slices.Contains(pack.Countries(), country) {
		return "", "", fmt.Errorf("%q is no country and no subdivision of one", code)
	}
	if divided {
		return country, text, nil
	}
	return country, "", nil
}
