package state

import (
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// View is a region's state as it was after one index. It is immutable, handed
// out without copying the whole, and may be kept and read from any goroutine.
// What its methods return is shared: read it, never change it.
type View struct {
	scalars
	self         *placement.Region
	tree         *ledger.Tree
	recent       recentRing
	regions      table[*placement.Region] // with self
	pendingPeers table[*placement.Region] // put again, waiting for a new approval
	nodes        roster
	jobs         table[*jobRecord]
	ended        table[placement.JobID] // key: order of ending
	queue        table[placement.JobID] // key: priority, then order of submission
	away         table[placement.JobID] // jobs that another region was asked to take; key: the id
	tasks        table[*taskRecord]
	onNode       table[*taskRecord] // live tasks; key: node, 0, task
	tokens       table[*Token]
	tokenHashes  table[*Token]
	joinTokens   table[*joinToken]
	tenants      table[*Tenant]
	usage        table[tenantUsage]
	holdings     table[holding]         // what live tasks hold; key: tenant, 0, model; derived
	yielding     int                    // live tasks of preemptible jobs; derived
	timed        int                    // live tasks of jobs with a max_runtime; derived
	beside       table[int]             // see besideKey; derived
	avoiding     int                    // live tasks of jobs that avoid others, by name avoided; derived
	byAge        table[placement.JobID] // the queue by since when they wait
	packs        table[*residency.Pack]
	invites      table[*Invite]
	reservations table[*Reservation]
	expiries     table[string] // reservations by when they expire
	grants       table[*Grant]
	revoked      table[time.Time] // certificate serials
	idempotency  table[*idempotent]
	fifoKeys     table[string]      // idempotency keys, oldest first; derived
	fifoGrants   table[string]      // grants, oldest first; derived
	checkpoints  table[*Checkpoint] // of the own log, by size
	witnesses    table[*Witness]    // outside ones, by name
	witnessed    table[*Witnessed]  // other logs, by origin
	segments     table[*Segment]    // ends of the nodes' chains
	erasures     table[*Erasure]    // by sequence
	held         table[peerHold]    // by peer; derived from the reservations
	policies     *policyCache
	// What the specs of jobs take, in bytes: of those not over, of those ended;
	// derived.
	liveBytes, endedBytes int64
}

// scalars are the small facts of the state; they are one record of a snapshot.
type scalars struct {
	Applied uint64    `json:"index"`
	Clock   time.Time `json:"clock"`
	Version uint8     `json:"version"`
	Active  string    `json:"law_pack"` // hash
	Voters  int       `json:"voters"`
	Limits  Limits    `json:"limits"`
	// The sequences number submissions, endings, and what is kept first in, first out.
	JobSeq uint64 `json:"job_seq"`
	EndSeq uint64 `json:"end_seq"`
	Fifo   uint64 `json:"fifo"`
	// Restarts counts how often the log was begun anew, Marks are the sizes of
	// it that may be signed.
	Restarts int    `json:"restarts,omitempty"`
	Marks    []Mark `json:"marks,omitempty"`
	// Waiting counts jobs in status pending.
	Waiting int `json:"waiting"`
	// Preempted counts the tasks that were ended for others within the hour: all in
	// the row of no tenant, and those for each tenant's jobs; sorted by tenant.
	Preempted []preempted `json:"preempted,omitempty"`
	// Removed is the raft index at which a node was last removed.
	Removed uint64 `json:"removed,omitempty"`
}

// jobRecord is a job and what only the state machine needs to know of it.
type jobRecord struct {
	placement.Job
	Seq      uint64 `json:"seq"`           // order of submission
	End      uint64 `json:"end,omitempty"` // order of ending, 0 while it has not
	Reserved string `json:"reserved,omitempty"`
	// Leaves are positions in the log, see [View.JobLeaves].
	Leaves []uint64 `json:"leaves,omitempty"`
	// Noted are those that say what was noted of its tasks, see [View.NoteLeaves].
	Noted []uint64 `json:"noted,omitempty"`
	// LawPack is the pack that the region decided by that let the job come here,
	// if it was another region.
	LawPack string `json:"law_pack,omitempty"`
	Bytes   int64  `json:"bytes"` // of the command that brought it
}

// taskRecord is a task and what only the state machine needs to know of it.
type taskRecord struct {
	placement.Task
	Again  bool                 `json:"again,omitempty"`  // after its stop the job wants another
	Before placement.TaskStatus `json:"before,omitempty"` // its status before contact was lost
	// Models are those of its devices, one if all are alike.
	Models []string `json:"models,omitempty"`
	// Sibling: it was told to end only because another member of its gang ended.
	Sibling bool `json:"sibling,omitempty"`
}

type joinToken struct {
	Hash    string           `json:"hash"`
	Node    placement.NodeID `json:"node,omitempty"`
	Expires time.Time        `json:"expires"`
}

// Invite is an invitation to another region, by the hash of its secret.
type Invite struct {
	Region  placement.RegionID `json:"region"`
	Hash    string             `json:"hash"`
	Expires time.Time          `json:"expires"`
}

// Reservation is room held for a job of another region.
type Reservation struct {
	Reserve
	Key string `json:"key"`
	// Consumed is set once its job was accepted here; the room is held on until
	// the job is placed.
	Consumed bool   `json:"consumed,omitempty"`
	Index    uint64 `json:"index"`
	// Leaf is where the log has it.
	Leaf uint64 `json:"leaf,omitempty"`
}

// Grant is a grant that this region issued (Issued) or that was consumed here.
type Grant struct {
	ID       string             `json:"id"`
	Issued   bool               `json:"issued,omitempty"`
	Tenant   placement.TenantID `json:"tenant,omitempty"`
	Audience placement.RegionID `json:"audience,omitempty"`
	Policy   string             `json:"policy,omitempty"`
	LawPack  string             `json:"law_pack,omitempty"`
	Expires  time.Time          `json:"expires"`
	Seq      uint64             `json:"seq"`
	// Job is the one that the grant let in; of a grant issued here it is empty
	// until the other region told.
	Job placement.JobID `json:"job,omitempty"`
	// Leaf and Index are where a grant was consumed here: in the log, 0 if that
	// was before it began anew, and in raft.
	Leaf  uint64 `json:"leaf,omitempty"`
	Index uint64 `json:"index,omitempty"`
}

type idempotent struct {
	Job      placement.JobID `json:"job"`
	BodyHash string          `json:"body_hash"`
	At       time.Time       `json:"at"`
	Seq      uint64          `json:"seq"`
}

// tenantUsage is derived from the jobs, never stored. That of "<region>/*" is
// the sum over the tenants of another region.
type tenantUsage struct {
	jobs, pending, gpus int
	bytes               int64
}

// Index is the raft index of the last command that the view contains.
func (v *View) Index() uint64 { return v.Applied }

// Time is the ledger's time: that of the newest command, see [State.Apply].
func (v *View) Time() time.Time { return v.Clock }

// LastRemoval is the index at which a node was last removed, 0 if none was: a
// secret that the region's nodes share must be newer.
func (v *View) LastRemoval() uint64 { return v.Removed }

// StateVersion is the version that commands may be written for.
func (v *View) StateVersion() uint8 { return v.Version }

// Self is the region's own record; nil before its first command.
func (v *View) Self() *placement.Region { return v.self }

// Region is the record of a region, its own or a peer; nil if unknown.
func (v *View) Region(id placement.RegionID) *placement.Region {
	r, _ := v.regions.get(string(id))
	return r
}

// Regions are all regions known, its own included, sorted by ID.
func (v *View) Regions() []*placement.Region { return v.regions.values() }

// PendingPeer is what an active peer says it is now, waiting for an operator's
// new approval; nil if there is nothing.
func (v *View) PendingPeer(id placement.RegionID) *placement.Region {
	r, _ := v.pendingPeers.get(string(id))
	return r
}

// Node is one node of the region; nil if unknown.
func (v *View) Node(id placement.NodeID) *placement.Node {
	n, _ := v.nodes.get(string(id))
	return n
}

// Nodes are the region's nodes, sorted by ID; one row for all who ask.
func (v *View) Nodes() []*placement.Node { return v.nodes.values() }

// Job is one job; nil if unknown, or ended so long ago that it was dropped.
func (v *View) Job(id placement.JobID) *placement.Job {
	if r, ok := v.jobs.get(string(id)); ok {
		return &r.Job
	}
	return nil
}

// JobsByPrefix finds at most limit jobs whose id, or the part of it after the
// dot, begins with prefix.
func (v *View) JobsByPrefix(prefix string, limit int) []*placement.Job {
	var out []*placement.Job
	collect := func(from string) {
		v.jobs.prefix(from, func(_ string, r *jobRecord) bool {
			if len(out) < limit {
				out = append(out, &r.Job)
			}
			return len(out) < limit
		})
	}
	collect(prefix)
	if !strings.Contains(prefix, ".") {
		v.regions.ascend("", func(id string, _ *placement.Region) bool {
			// Ids that begin with "region.prefix" were found already if the
			// region's name begins with prefix.
			if !strings.HasPrefix(id, prefix) {
				collect(id + "." + prefix)
			}
			return len(out) < limit
		})
	}
	return out
}

// Jobs lists jobs by ID from the first after the cursor, at most limit, those
// that keep wants (all if it is nil).
func (v *View) Jobs(after placement.JobID, limit int, keep func(*placement.Job) bool) []*placement.Job {
	var out []*placement.Job
	from := string(after)
	if from != "" {
		from += "\x00"
	}
	v.jobs.ascend(from, func(_ string, r *jobRecord) bool {
		if len(out) < limit && (keep == nil || keep(&r.Job)) {
			out = append(out, &r.Job)
		}
		return len(out) < limit
	})
	return out
}

// JobCount is the number of jobs kept.
func (v *View) JobCount() int { return v.jobs.len() }

// PendingCount is the number of jobs in status pending.
func (v *View) PendingCount() int { return v.Waiting }

// PendingLimit is how many may wait.
func (v *View) PendingLimit() int { return v.Limits.Pending }

// QueueBytes is what the specs of jobs that are not over take, in bytes, and how
// much they may.
func (v *View) QueueBytes() (used, limit int64) { return v.liveBytes, v.Limits.Bytes }

// Tokens are the bearer tokens, sorted by ID.
func (v *View) Tokens() []*Token { return v.tokens.values() }

// Token finds a token by the hex SHA-256 of its secret; nil if unknown.
func (v *View) Token(hash string) *Token {
	t, _ := v.tokenHashes.get(hash)
	return t
}

// TokenByID finds a token by its id; nil if unknown.
func (v *View) TokenByID(id string) *Token {
	t, _ := v.tokens.get(id)
	return t
}

// Tenant is one tenant; nil if none was set.
func (v *View) Tenant(id placement.TenantID) *Tenant {
	t, _ := v.tenants.get(string(id))
	return t
}

// Tenants are the tenants that were set, sorted by ID.
func (v *View) Tenants() []*Tenant { return v.tenants.values() }

// Pack is the law pack that decides; nil before the region's first command.
func (v *View) Pack() *residency.Pack { return v.PackByHash(v.Active) }

// PackByHash is a pack that the state holds, or nil.
func (v *View) PackByHash(hash string) *residency.Pack {
	p, _ := v.packs.get(hash)
	return p
}

// Packs are the packs held, sorted by hash.
func (v *View) Packs() []*residency.Pack { return v.packs.values() }

// Invite finds an open invitation by the hash of its secret; nil if there is none.
func (v *View) Invite(hash string) *Invite {
	i, _ := v.invites.get(hash)
	return i
}

// Reservation is the room held under a key (home/job/attempt); nil if none is.
func (v *View) Reservation(key string) *Reservation {
	r, _ := v.reservations.get(key)
	return r
}

// Reservations are all rooms held, sorted by key.
func (v *View) Reservations() []*Reservation { return v.reservations.values() }

// JoinTokenValid reports whether a join token is open at the given time, so
// that a caller can refuse early; Apply alone consumes it.
func (v *View) JoinTokenValid(hash string, now time.Time) bool {
	t, ok := v.joinTokens.get(hash)
	return ok && now.Before(t.Expires)
}

// Revoked reports whether a node certificate's serial number was revoked.
func (v *View) Revoked(serial string) bool { return v.revoked.has(serial) }

// LedgerSize is the number of leaves; LedgerRoot their RFC 6962 root.
func (v *View) LedgerSize() uint64 { return v.tree.Size() }

// LedgerRoot is the root of the region's ledger.
func (v *View) LedgerRoot() ledger.Hash { return v.tree.Root() }

// LedgerTree is the compact range over all leaves, a copy.
func (v *View) LedgerTree() *ledger.Tree { return v.tree.Clone() }
