package state

import (
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

func (s *State) createJoinToken(c *call, k CreateJoinToken) *Refused {
	switch {
	case !validHash(k.Hash):
		return refuse("token.hash", "send the hex SHA-256 of the secret", "the join token has no valid hash")
	case s.joinTokens.has(k.Hash):
		return refuse("token.exists", "create another", "this join token exists already")
	case k.Node != "" && !placement.ValidName(string(k.Node)):
		return refuse("node.name", "use lower-case letters, digits and hyphens", "%q is no name of a node", clip(string(k.Node)))
	case !k.Expires.After(s.Clock):
		return refuse("token.expired", "give it a time to live", "the join token would have expired already")
	case s.joinTokens.len() >= 10_000:
		return refuse("token.too-many", "wait until some expire", "10000 join tokens are open")
	}
	c.subject = ledger.Opaque(c.head.Salt, k.Hash)
	s.joinTokens.put(k.Hash, &joinToken{k.Hash, k.Node, k.Expires.UTC()})
	return nil
}

func (s *State) joinNode(c *call, k JoinNode) *Refused {
	node := k.Node
	c.subject = ledger.Opaque(c.head.Salt, string(node.ID))
	token, ok := s.joinTokens.get(k.TokenHash)
	switch {
	case !ok:
		return refuse("token.spent", "create a new one: sovmesh node token create", "this join token was used already, has expired, or never existed")
	case !s.Clock.Before(token.Expires):
		return refuse("token.expired", "create a new one: sovmesh node token create", "this join token expired at %s", token.Expires.Format(time.RFC3339))
	case token.Node != "" && token.Node != node.ID:
		return refuse("token.name", "join with the name that the token was made for", "this join token admits another node than %q", clip(string(node.ID)))
	case !placement.ValidName(string(node.ID)):
		return refuse("node.name", "use lower-case letters, digits and hyphens", "%q is no name of a node", clip(string(node.ID)))
	case s.nodes.has(string(node.ID)):
		return refuse("node.exists", "choose another name, or remove the old node first: sovmesh node remove NODE", "a node named %s is in this region already", node.ID)
	}
	if refused := checkNode(&node); refused != nil {
		return refused
	}
	s.joinTokens.delete(k.TokenHash)
	node.Region, node.Role, node.State, node.Contact = s.self.ID, s.nextRole(), placement.NodeReady, placement.ContactAlive
	node.ContactAt, node.JoinedAt, node.Used, node.Drain, node.Cleared = s.Clock, s.Clock, placement.Usage{}, nil, nil
	s.nodes.put(string(node.ID), &node)
	c.show(ledger.ShownState, "joined")
	if node.Serial != "" {
		c.show(ledger.ShownCertificate, certificateText(node.Serial, node.NotAfter, ""))
	}
	c.id = string(node.ID)
	return nil
}

// nextRole fills the voters first, then the standbys.
func (s *State) nextRole() placement.NodeRole {
	voters, standbys := s.roles()
	switch {
	case voters < s.Voters:
		return placement.RoleVoter
	case standbys < maxStandbys:
		return placement.RoleStandby
	}
	return placement.RoleWorker
}

func (s *State) roles() (voters, standbys int) {
	return s.nodes.r.voters, s.nodes.r.standbys
}

// VotersWanted is how many nodes shall vote.
func (v *View) VotersWanted() int { return v.Voters }

const (
	maxAddress = 256
	maxDevices = 256 // more than MIG makes of any machine's, and as many as the engine ranks
	maxDrivers = 64
	maxMoveKey = 512 // bytes

	maxResolvers = 64
)

func checkNode(n *placement.Node) *Refused {
	if len(n.QUIC) > maxAddress || len(n.API) > maxAddress || len(n.Serial) > 64 {
		return refuse("node.address", "use host:port", "an address of node %s is too long", n.ID)
	}
	if n.Site != "" && !placement.ValidName(n.Site) {
		return refuse("node.site", "use lower-case letters, digits and hyphens", "%q is no name of a site", clip(n.Site))
	}
	if err := placement.CheckLabels(n.Inventory.Labels); err != nil {
		return refuse("node.labels", "mend labels in the node's configuration", "node %s: %v", n.ID, err)
	}
	return checkInventory(n.ID, &n.Inventory)
}

func checkInventory(id placement.NodeID, i *placement.Inventory) *Refused {
	tooLong := func(w string) bool { return len(w) > maxFact }
	if len(i.Devices) > maxDevices || len(i.Drivers) > maxDrivers || i.CPU < 0 || i.Memory < 0 ||
		slices.ContainsFunc(append([]string{i.Program, i.DriverVersion, i.CUDA}, i.Drivers...), tooLong) {
		return refuse("node.inventory", "a node has at most 256 devices and 64 drivers", "the inventory of node %s is not plausible", id)
	}
	if len(i.Resolvers) > maxResolvers || slices.ContainsFunc(i.Resolvers, tooLong) {
		return refuse("node.inventory", "a node names 64 resolvers at most", "the resolvers of node %s are not plausible", id)
	}
	for driver, key := range i.Moves {
		if len(i.Moves) > maxDrivers || tooLong(driver) || len(key) > maxMoveKey {
			return refuse("node.inventory", "a node says of 64 drivers at most what running tasks need to get from one to another", "what node %s says of moves is not plausible", id)
		}
	}
	seen := make([]string, 0, len(i.Devices))
	for _, d := range i.Devices {
		if d.UUID == "" || len(d.UUID) > maxFact || len(d.Model) > maxFact || d.Memory < 0 {
			return refuse("node.inventory", "every device needs a UUID", "a device of node %s is not plausible", id)
		}
		if why := d.Plausible(); why != "" {
			return refuse("node.inventory", "look at what the node's driver reports", "device %s of node %s is not plausible: %s", clip(d.UUID), id, why)
		}
		seen = append(seen, d.UUID)
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != len(i.Devices) {
		return refuse("node.inventory", "report every device once", "two devices of node %s have the same UUID", id)
	}
	return nil
}

// node finds a node and gives a copy to change.
func (s *State) node(c *call, id placement.NodeID) (*placement.Node, *Refused) {
	c.subject = ledger.Opaque(c.head.Salt, string(id))
	n := s.Node(id)
	if n == nil {
		return nil, refuse("node.unknown", "list them: sovmesh node list", "there is no node %q", clip(string(id)))
	}
	c.id = string(id)
	fresh := *n
	return &fresh, nil
}

func (s *State) putNode(n *placement.Node) { s.nodes.put(string(n.ID), n) }

func (s *State) setRole(c *call, k SetRole) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	voters, _ := s.roles()
	switch {
	case k.Role != placement.RoleVoter && k.Role != placement.RoleStandby && k.Role != placement.RoleWorker:
		return refuse("node.role", "choose of voter, standby, worker", "%q is no role", clip(string(k.Role)))
	case n.Role == placement.RoleVoter && k.Role != placement.RoleVoter && voters == 1:
		return refuse("node.last", "promote another node first", "node %s is the only voter", n.ID)
	}
	n.Role = k.Role
	c.show(ledger.ShownState, string(k.Role))
	s.putNode(n)
	return nil
}

func (s *State) removeNode(c *call, k RemoveNode) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	if voters, _ := s.roles(); n.Role == placement.RoleVoter && voters == 1 {
		return refuse("node.last", "let another node join first", "node %s is the only voter: without it the region is gone", n.ID)
	}
	for _, t := range s.TasksOn(n.ID) {
		s.endTask(c, t.ID, placement.TaskLost, "its node was removed", nil)
	}
	for _, r := range s.reservations.values() {
		if r.Node == n.ID {
			s.dropReservation(r)
		}
	}
	s.revoke(n.Serial, n.NotAfter)
	c.show(ledger.ShownRevoked, clip(n.Serial))
	c.show(ledger.ShownState, "removed")
	s.nodes.delete(string(n.ID))
	s.Removed = c.index
	return nil
}

// revoke remembers a certificate's serial number until long after its end.
func (s *State) revoke(serial string, notAfter time.Time) {
	if serial == "" {
		return
	}
	s.revoked.put(serial, notAfter.UTC())
	for s.revoked.len() > maxRevoked {
		oldest, first := "", true
		var at time.Time
		s.revoked.ascend("", func(key string, t time.Time) bool {
			if first || t.Before(at) {
				oldest, at, first = key, t, false
			}
			return true
		})
		s.revoked.delete(oldest)
	}
}

func (s *State) issueCertificate(c *call, k IssueCertificate) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	if k.Serial == "" || len(k.Serial) > 64 {
		return refuse("node.serial", "send the certificate's serial number, decimal", "the certificate of node %s has no serial number", n.ID)
	}
	if !validDigest(k.SHA256) {
		return refuse("node.certificate", "send the SHA-256 of the certificate's DER in hex", "the certificate of node %s has no such digest", n.ID)
	}
	n.Serial, n.NotAfter = k.Serial, k.NotAfter.UTC()
	c.show(ledger.ShownCertificate, certificateText(n.Serial, n.NotAfter, k.SHA256))
	s.putNode(n)
	return nil
}

func (s *State) reportInventory(c *call, k ReportInventory) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	if k.Inventory.Version < n.Inventory.Version {
		return refuse("node.stale", "report again", "node %s has reported a newer inventory already", n.ID)
	}
	n.Inventory = k.Inventory
	if k.QUIC != "" {
		n.QUIC = k.QUIC
	}
	if k.API != "" {
		if refused := s.ownAddress(n, k.API); refused != nil {
			return refused
		}
		n.API = k.API
	}
	if k.Site != "" && k.Site != n.Site {
		// A site decides what may run there, so a node's later word for it is not
		// enough: what it joined with counts.
		return refuse("node.site", "if it did move: sovmesh node remove, then let it join again at the new site", "node %s joined at site %q and says now that it stands at %q", n.ID, n.Site, clip(k.Site))
	}
	if refused := checkNode(n); refused != nil {
		return refused
	}
	s.putNode(n)
	return nil
}

// ownAddress refuses a move to the host of another node. A serving certificate
// is given for the host that the ledger has of a node, and with one of another's
// host a node could take that node's tokens and bodies. Nodes that joined on one
// host share it.
func (s *State) ownAddress(n *placement.Node, address string) *Refused {
	host := placement.HostOf(address)
	if host == "" {
		return refuse("node.address", "use https://host:port", "the address that node %s reports has no host", n.ID)
	}
	if host == n.Host() {
		return nil
	}
	for _, other := range s.Nodes() {
		if other.ID != n.ID && other.Host() == host {
			return refuse("node.address", "report an address of this node alone, or take the other out first: sovmesh node remove "+string(other.ID),
				"node %s says that it moved to %s, which is the address of node %s", n.ID, clip(host), other.ID)
		}
	}
	return nil
}

func (s *State) setContact(c *call, k SetContact) *Refused {
	if k.Contact != placement.ContactAlive && k.Contact != placement.ContactUnknown {
		return refuse("node.contact", "choose of alive, unknown", "%q is no state of contact", clip(string(k.Contact)))
	}
	for _, id := range k.Nodes {
		old := s.Node(id)
		if old == nil || old.Contact == k.Contact {
			continue // removed meanwhile, or said twice
		}
		n := *old
		n.Contact, n.ContactAt = k.Contact, s.Clock
		s.putNode(&n)
		for _, t := range s.TasksOn(id) {
			s.contactTask(c, t.ID, k.Contact)
		}
	}
	return nil
}

// contactTask makes a task unknown with its node, and what it was before again.
func (s *State) contactTask(c *call, id placement.TaskID, contact placement.Contact) {
	old, _ := s.tasks.get(string(id))
	t := *old
	switch {
	case contact == placement.ContactUnknown && t.Status != placement.TaskUnknown:
		t.Before, t.Status = t.Status, placement.TaskUnknown
	case contact == placement.ContactAlive && t.Status == placement.TaskUnknown:
		t.Status, t.Before = t.Before, ""
	default:
		return
	}
	s.putTask(&t)
	s.settleJob(c, t.Job)
}

func (s *State) cordonNode(c *call, k CordonNode) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	if n.State == placement.NodeReady {
		n.State = placement.NodeCordoned
		c.show(ledger.ShownState, string(n.State))
		s.putNode(n)
	}
	return nil
}

func (s *State) resumeNode(c *call, k ResumeNode) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	n.State, n.Drain = placement.NodeReady, nil
	c.show(ledger.ShownState, string(n.State))
	s.putNode(n)
	return nil
}

func (s *State) drainNode(c *call, k DrainNode) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	if refused := checkDrain(&k.Drain); refused != nil {
		return refused
	}
	s.beginDrain(n, k.Drain)
	c.show(ledger.ShownState, string(placement.NodeDraining))
	return nil
}

// maxDrainSet bounds the nodes of one drain set.
const maxDrainSet = 1024

// drainNodes begins the drain of every node of the set, or of none. After it no
// plan sees one of them as a place while another is being emptied.
func (s *State) drainNodes(c *call, k DrainNodes) *Refused {
	if len(k.Nodes) == 0 || len(k.Nodes) > maxDrainSet {
		return refuse("drain.set", "name 1 to 1024 nodes", "a drain set of %d nodes is not possible", len(k.Nodes))
	}
	names := make([]string, len(k.Nodes))
	for i, id := range k.Nodes {
		names[i] = string(id)
	}
	slices.Sort(names)
	c.subject = ledger.Opaque(c.head.Salt, strings.Join(names, ","))
	if refused := checkDrain(&k.Drain); refused != nil {
		return refused
	}
	fresh := make([]*placement.Node, len(names))
	for i, name := range names {
		if i > 0 && names[i-1] == name {
			return refuse("drain.set", "name every node once", "node %q stands twice in the drain set", clip(name))
		}
		old := s.Node(placement.NodeID(name))
		if old == nil {
			return refuse("node.unknown", "list them: sovmesh node list", "there is no node %q: nothing is drained", clip(name))
		}
		n := *old
		fresh[i] = &n
	}
	for _, n := range fresh {
		s.beginDrain(n, k.Drain)
	}
	c.show(ledger.ShownState, string(placement.NodeDraining))
	return nil
}

func checkDrain(d *placement.Drain) *Refused {
	switch d.OnDeadline {
	case "", placement.DrainWait, placement.DrainCheckpoint, placement.DrainStop:
	default:
		return refuse("drain.rule", "choose of wait, checkpoint, stop", "%q is no rule for a drain's deadline", clip(string(d.OnDeadline)))
	}
	if len(d.Reason) > 1024 {
		return refuse("drain.reason", "shorten it", "the reason for the drain is too long")
	}
	return nil
}

// beginDrain makes a node a draining one; a drain that goes on keeps its start.
func (s *State) beginDrain(n *placement.Node, d placement.Drain) {
	d.StartedAt, d.Deadline = s.Clock, d.Deadline.UTC()
	if n.Drain != nil {
		d.StartedAt = n.Drain.StartedAt
	}
	if d.OnDeadline == "" {
		d.OnDeadline = placement.DrainWait
	}
	n.State, n.Drain = placement.NodeDraining, &d
	s.putNode(n)
}

func (s *State) finishDrain(c *call, k FinishDrain) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	switch {
	case n.State == placement.NodeDrained:
		return nil
	case n.State != placement.NodeDraining:
		return refuse("drain.none", "drain it first: sovmesh node drain NODE", "node %s is not being drained", n.ID)
	case n.Used.Tasks > 0:
		return refuse("drain.unfinished", "wait for its tasks, or see what blocks: sovmesh node drain --plan NODE", "node %s still has %d tasks", n.ID, n.Used.Tasks)
	}
	n.State = placement.NodeDrained
	c.show(ledger.ShownState, string(n.State))
	s.putNode(n)
	return nil
}
