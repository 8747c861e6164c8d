package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// AllDevices stands for every device of a node that something stands against.
const AllDevices = "all"

// ClearDeviceRequest says why a device is cleared.
type ClearDeviceRequest struct {
	Reason string `json:"reason,omitempty"`
}

// NodeGPUs is what a node itself knows of its devices now.
type NodeGPUs struct {
	Node placement.NodeID `json:"node"`
	// Down is why the devices cannot be seen at present; empty if they can.
	Down string `json:"down,omitempty"`
	// Refused is why the region goes by an older report of the node; empty if it
	// took the newest.
	Refused string    `json:"refused,omitempty"`
	Items   []LiveGPU `json:"items"`
}

// LiveGPU is one device and what it does now. Sample is missing where nothing
// is measured (simulated devices), and where the device works for a tenant whose
// jobs the caller may not see (Hidden).
type LiveGPU struct {
	GPU
	Sample *gpu.Sample `json:"sample,omitempty"`
	Hidden bool        `json:"hidden,omitempty"`
}

// Devices is the node's own view of its devices: the newest samples by UUID, and
// why there are none.
type Devices interface {
	Samples() (samples map[string]gpu.Sample, down string)
	// Refused is what the region has against the node's last report, empty if it
	// took it.
	Refused() string
}

// liveTimeout bounds the asking of the node that has the devices.
const liveTimeout = 3 * time.Second

// getGPU shows one device, by its UUID or a unique beginning of it.
func getGPU(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	g, err := c.findGPU(v, v.Nodes())
	if err != nil {
		return err
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, g)
}

// findGPU finds the device that the path names on one of the nodes.
func (c *call) findGPU(v *state.View, nodes []*placement.Node) (*GPU, error) {
	name := c.r.PathValue("uuid")
	var found []GPU
	var names []string
	for _, n := range nodes {
		for _, g := range c.gpusOf(v, n) {
			names = append(names, g.UUID)
			if g.UUID == name {
				return &g, nil
			}
			if len(name) >= 6 && len(g.UUID) > len(name) && g.UUID[:len(name)] == name {
				found = append(found, g)
			}
		}
	}
	switch {
	case len(found) == 1:
		return &found[0], nil
	case len(found) > 1:
		return nil, newProblem(http.StatusConflict, CodeAmbiguous, quoteWord(name)+" begins the UUIDs of several devices", "write more of it: sovmesh gpu list")
	}
	hint := "list them: sovmesh gpu list"
	if near := nearest(name, names[:min(len(names), 1000)]); near != "" {
		hint = "did you mean " + near + "?"
	}
	return nil, newProblem(http.StatusNotFound, CodeNotFound, "there is no device "+quoteWord(name), hint)
}

// gpusOf are the devices of a node with who holds them: every holder of a
// device that is shared, and of those whose jobs the caller may not see only
// that there are some.
func (c *call) gpusOf(v *state.View, n *placement.Node) []GPU {
	mine, others := map[string][]placement.TaskID{}, map[string]bool{}
	for _, t := range v.TasksOn(n.ID) {
		sees := len(t.Devices) > 0 && c.seesTask(v, t.ID)
		for _, d := range t.Devices {
			if sees {
				mine[d] = append(mine[d], t.ID)
			} else {
				others[d] = true
			}
		}
	}
	for _, tasks := range mine {
		slices.Sort(tasks)
	}
	out := make([]GPU, len(n.Inventory.Devices))
	for i, d := range n.Inventory.Devices {
		out[i] = GPU{Node: n.ID, Device: d, Tasks: mine[d.UUID], Held: others[d.UUID], DriverVersion: n.Inventory.DriverVersion, CUDA: n.Inventory.CUDA}
		if j := slices.IndexFunc(n.Cleared, func(c placement.DeviceClear) bool { return c.UUID == d.UUID }); j >= 0 {
			out[i].Cleared = &n.Cleared[j]
		}
	}
	return out
}

// clearGPU records an operator's word on one device, or on every device of the
// node that something stands against.
func clearGPU(s *Server, c *call) error {
	var in ClearDeviceRequest
	if err := c.readOptional(&in); err != nil {
		return err
	}
	if len(in.Reason) > 1024 {
		return &InputError{Code: CodeBody, Message: "the reason is too long", Help: "write at most 1024 bytes"}
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	n, err := c.findNode(v)
	if err != nil {
		return err
	}
	var which []string
	if c.r.PathValue("uuid") == AllDevices {
		for _, d := range n.Inventory.Devices {
			if len(d.Causes) > 0 {
				which = append(which, d.UUID)
			}
		}
	} else {
		g, err := c.findGPU(v, []*placement.Node{n})
		if err != nil {
			return err
		}
		which = []string{g.UUID}
	}
	for _, uuid := range which {
		if _, v, err = c.propose(state.ClearDevice{Node: n.ID, Device: uuid, Reason: in.Reason}, c.caller.Actor); err != nil {
			return err
		}
	}
	page := Page[GPU]{Items: []GPU{}, Index: v.Index()}
	if n = v.Node(n.ID); n != nil {
		for _, g := range c.gpusOf(v, n) {
			if slices.Contains(which, g.UUID) {
				page.Items = append(page.Items, g)
			}
		}
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, page)
}

// liveGPUs shows what the devices of a node do now; the node itself is asked.
func liveGPUs(s *Server, c *call) error {
	v, err := s.view()
	if err != nil {
		return err
	}
	n, err := c.findNode(v)
	if err != nil {
		return err
	}
	said := &NodeSamples{}
	if n.ID == s.cfg.Self {
		said = s.samples()
	} else {
		ctx, cancel := context.WithTimeout(c.r.Context(), liveTimeout)
		defer cancel()
		if said, err = s.mesh.NodeSamples(ctx, s.peerOf(n)); err != nil {
			return newProblem(http.StatusServiceUnavailable, CodePeerUnknown, "node "+string(n.ID)+" does not say what its devices do: "+err.Error(), "see what the region knows of them: sovmesh gpu list").retry(time.Second)
		}
	}
	out := NodeGPUs{Node: n.ID, Down: said.Down, Refused: said.Refused, Items: []LiveGPU{}}
	for _, g := range c.gpusOf(v, n) {
		live := LiveGPU{GPU: g}
		if sample, ok := said.Samples[g.UUID]; ok && !g.Simulated {
			live.Sample = &sample
		}
		if live.Hidden = !c.seesDevice(v, n.ID, g.UUID); live.Hidden {
			live.Sample = nil // the load of another tenant
		}
		out.Items = append(out.Items, live)
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// seesDevice reports whether the caller may know what a device does: whether it
// may know of every task that holds a share of it.
func (c *call) seesDevice(v *state.View, node placement.NodeID, uuid string) bool {
	held := false
	for _, t := range v.TasksOn(node) {
		if !slices.Contains(t.Devices, uuid) {
			continue
		}
		if held = true; !c.seesTask(v, t.ID) {
			return false
		}
	}
	return held || c.seesTask(v, "")
}

// seesTask reports whether the caller may know what a task does. What nobody
// holds may hold a tenant's work still, or its neighbour's: only who sees all
// sees that.
func (c *call) seesTask(v *state.View, t placement.TaskID) bool {
	if c.caller.seesAll() {
		return true
	}
	if t == "" {
		return false
	}
	j := v.Job(t.Job())
	return j != nil && c.caller.sees(j)
}

// NodeSamples is a node's answer to another of its region.
type NodeSamples struct {
	Down    string                `json:"down,omitempty"`
	Refused string                `json:"refused,omitempty"`
	Samples map[string]gpu.Sample `json:"samples"`
}

func (s *Server) samples() *NodeSamples {
	out := &NodeSamples{Samples: map[string]gpu.Sample{}}
	if s.cfg.Devices != nil {
		out.Samples, out.Down = s.cfg.Devices.Samples()
		out.Refused = s.cfg.Devices.Refused()
	}
	return out
}

// nodeSamples is the node's own part of liveGPUs.
func nodeSamples(s *Server, c *call) error { return c.writeJSON(http.StatusOK, s.samples()) }

// NodeSamples asks a node of the own region what its devices do.
func (m *MeshClient) NodeSamples(ctx context.Context, p transport.Peer) (*NodeSamples, error) {
	return meshJSON[NodeSamples](ctx, m, p, meshCall{method: http.MethodGet, path: "/gpus", cargo: cargo(transport.CargoStatus)}, nil)
}

// GPU is one device of the region, by its UUID or a unique beginning of it.
func (c *Client) GPU(ctx context.Context, uuid string) (*GPU, error) {
	return one[GPU](ctx, c, http.MethodGet, "/gpus/"+url.PathEscape(uuid), nil)
}

// LiveGPUs is what the devices of a node do now.
func (c *Client) LiveGPUs(ctx context.Context, n placement.NodeID) (*NodeGPUs, error) {
	return one[NodeGPUs](ctx, c, http.MethodGet, "/nodes"+seg(n)+"/gpus", nil)
}

// ClearGPU records that what stands against a device is dealt with; the device
// [AllDevices] stands for all of the node.
func (c *Client) ClearGPU(ctx context.Context, n placement.NodeID, uuid string, r ClearDeviceRequest) (*Page[GPU], error) {
	return one[Page[GPU]](ctx, c, http.MethodPost, "/nodes"+seg(n)+"/gpus/"+url.PathEscape(uuid)+"/clear", r)
}
