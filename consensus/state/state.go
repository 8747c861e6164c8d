// Package state is what a region knows and decided: nodes, jobs, tasks,
// tenants, peers, law packs, and the root of the ledger that proves it.
//
// Apply is deterministic: the same commands in the same order give the same
// state and the same ledger leaves on every replica. Time arrives inside the
// command, stamped once by its proposer; there is no clock, no randomness, no
// log and no I/O here, and maps are never iterated. Apply judges residency
// itself, from replicated facts alone, so that even a broken leader cannot
// commit a placement outside a job's tag. A refusal is recorded like an
// acceptance.
//
// consensus runs it under raft; node/controller, node/api and the others read
// its [View].
package state

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// State is the state machine. One goroutine owns it; others read its views.
type State struct {
	View
	// salts finds a remembered result; derived from View.recent.
	salts map[[16]byte]uint64
	// words keeps one copy of strings that many jobs share.
	words map[string]string
}

// The defaults of [Limits], and the fixed bounds of what is kept first in, first out.
const (
	defaultPending  = 100_000
	defaultTerminal = 50_000
	defaultBytes    = 256 << 20
	defaultVoters   = 3
	maxStandbys     = 4
	maxKeys         = 100_000 // idempotency keys, and grants
	maxRevoked      = 100_000
	endedTasksKept  = 5 // per job
)

// New is the state before the first command.
func New() *State {
	return &State{
		View: View{
			scalars:      scalars{Version: 1, Voters: defaultVoters, Limits: Limits{Pending: defaultPending, Terminal: defaultTerminal, Bytes: defaultBytes}},
			tree:         ledger.NewTree(),
			regions:      newTable[*placement.Region](),
			pendingPeers: newTable[*placement.Region](),
			nodes:        newRoster(),
			jobs:         newTable[*jobRecord](),
			ended:        newTable[placement.JobID](),
			queue:        newTable[placement.JobID](),
			away:         newTable[placement.JobID](),
			tasks:        newTable[*taskRecord](),
			onNode:       newTable[*taskRecord](),
			tokens:       newTable[*Token](),
			tokenHashes:  newTable[*Token](),
			joinTokens:   newTable[*joinToken](),
			tenants:      newTable[*Tenant](),
			usage:        newTable[tenantUsage](),
			holdings:     newTable[holding](),
			beside:       newTable[int](),
			byAge:        newTable[placement.JobID](),
			packs:        newTable[*residency.Pack](),
			invites:      newTable[*Invite](),
			reservations: newTable[*Reservation](),
			expiries:     newTable[string](),
			held:         newTable[peerHold](),
			grants:       newTable[*Grant](),
			revoked:      newTable[time.Time](),
			idempotency:  newTable[*idempotent](),
			fifoKeys:     newTable[string](),
			fifoGrants:   newTable[string](),
			checkpoints:  newTable[*Checkpoint](),
			witnesses:    newTable[*Witness](),
			witnessed:    newTable[*Witnessed](),
			segments:     newTable[*Segment](),
			erasures:     newTable[*Erasure](),
			policies:     newPolicyCache(),
		},
		salts: map[[16]byte]uint64{},
		words: map[string]string{},
	}
}

// Freeze gives the state as it is now, in constant time.
func (s *State) Freeze() *View {
	v := s.View
	v.tree = s.tree.Clone()
	v.recent.chunks = append([][]recentResult(nil), s.recent.chunks...)
	v.regions, v.pendingPeers = s.regions.snapshot(), s.pendingPeers.snapshot()
	v.nodes, v.jobs, v.ended, v.queue = s.nodes.snapshot(), s.jobs.snapshot(), s.ended.snapshot(), s.queue.snapshot()
	v.tasks, v.onNode, v.away = s.tasks.snapshot(), s.onNode.snapshot(), s.away.snapshot()
	v.tokens, v.tokenHashes, v.joinTokens = s.tokens.snapshot(), s.tokenHashes.snapshot(), s.joinTokens.snapshot()
	v.tenants, v.usage, v.packs = s.tenants.snapshot(), s.usage.snapshot(), s.packs.snapshot()
	v.invites, v.reservations, v.expiries = s.invites.snapshot(), s.reservations.snapshot(), s.expiries.snapshot()
	v.held, v.holdings, v.byAge = s.held.snapshot(), s.holdings.snapshot(), s.byAge.snapshot()
	v.beside = s.beside.snapshot()
	v.fifoKeys, v.fifoGrants = s.fifoKeys.snapshot(), s.fifoGrants.snapshot()
	v.checkpoints, v.witnesses, v.witnessed, v.segments = s.checkpoints.snapshot(), s.witnesses.snapshot(), s.witnessed.snapshot(), s.segments.snapshot()
	v.erasures = s.erasures.snapshot()
	v.grants, v.revoked, v.idempotency = s.grants.snapshot(), s.revoked.snapshot(), s.idempotency.snapshot()
	return &v
}

// call is one command under way.
type call struct {
	index uint64
	head  Head
	// now is the command's own time, for the day of the law and for stamps.
	now  time.Time
	size int64 // of the command, in bytes
	// For the leaf.
	subject string
	judged  []ledger.Judgement
	shown   []ledger.Shown
	showing int // bytes of shown
	unshown int // fields that did not fit
	id      string
	// repeated is set when an idempotency key was known.
	repeated bool
}

// Apply takes one committed command. The caller passes raft's index.
//
// Ledger time is the newest command's time and does not run backwards, with one
// exception: a command stamped more than a minute earlier means that one of the
// two proposers had a wrong clock, and ledger time follows the later word, so
// that one wrong clock does not expire everything for ever. That a proposer's
// clock is right is seen to before the command is committed (consensus compares
// clocks) and after it (whoever acts on it refuses what is a minute off).
// The day on which law is read is always that of the command itself.
//
// Apply panics for a command that needs a newer program: a stopped replica can
// be upgraded, a diverged one cannot be trusted.
func (s *State) Apply(index uint64, raw []byte) Result {
	head, cmd, err := Decode(raw)
	var unknown *Unknown
	if errors.As(err, &unknown) {
		panic(fmt.Sprintf("state: index %d: %v", index, unknown))
	}
	s.Applied = max(s.Applied, index)
	c := &call{index: index, head: head, now: head.Time, size: int64(len(raw))}
	var refused *Refused
	switch {
	case err != nil:
		refused = &Refused{Code: "command.malformed", Message: err.Error(), Advice: "this is a fault of whoever proposed it"}
		cmd = nil
	default:
		if seq, ok := s.salts[head.Salt]; ok {
			return s.again(seq)
		}
		s.advance(head.Time)
		refused = s.run(c, cmd)
	}
	return s.record(c, cmd, raw, refused)
}

// maxRewind is how far a command's stamp may lie before ledger time.
const maxRewind = time.Minute

func (s *State) advance(t time.Time) {
	if t.After(s.Clock) || s.Clock.Sub(t) > maxRewind {
		s.Clock = t
	}
	s.expire()
}

// again is the answer to a command proposed twice: what came of it first.
func (s *State) again(seq uint64) Result {
	r := s.recent.at(seq)
	return Result{Index: r.Index, Leaf: r.Leaf, ID: r.ID, Refused: r.Refused, Repeated: true}
}

// record appends the leaf and remembers the result.
func (s *State) record(c *call, cmd Command, raw []byte, refused *Refused) Result {
	if cmd != nil && leavesNoLeaf(cmd.Kind()) {
		result := Result{Index: c.index, Leaf: s.tree.Size(), ID: c.id, Refused: refused}
		s.remember(recentResult{Salt: c.head.Salt, Index: c.index, Leaf: result.Leaf, ID: c.id, Refused: refused})
		return result
	}
	actor, role, where := s.speaker(c)
	leaf := ledger.Leaf{
		Index: c.index, Time: c.now, Actor: actor, Subject: c.subject, Judged: c.judged, Shown: c.allShown(role, where, refused),
		Salt: ledger.LeafSalt(c.head.Salt), Commitment: ledger.Commit(c.head.Salt, raw),
	}
	if cmd != nil {
		leaf.Kind = string(cmd.Kind())
	}
	if refused != nil {
		leaf.Code = refused.Code
	}
	leaf.Subject = clip(strings.ToValidUTF8(leaf.Subject, ""))
	entry, err := leaf.Encode()
	if err != nil {
		// Every field is bounded where it enters the state, so this is a bug. It
		// must not stop a region: the leaf says less, the same on every replica.
		leaf.Judged, leaf.Shown, leaf.Actor, leaf.Subject = nil, nil, "", ""
		if entry, err = leaf.Encode(); err != nil {
			panic(fmt.Sprintf("state: index %d: leaf of %s: %v", c.index, leaf.Kind, err))
		}
	}
	result := Result{Index: c.index, Leaf: s.tree.Append(entry), ID: c.id, Refused: refused, Repeated: c.repeated, Entry: entry, LeafHash: leafHash(entry), Salt: c.head.Salt}
	if cmd != nil {
		s.remember(recentResult{Salt: c.head.Salt, Index: c.index, Leaf: result.Leaf, ID: c.id, Refused: refused})
	}
	return result
}

func (s *State) remember(r recentResult) {
	s.salts[r.Salt] = s.recent.add(r)
	for _, old := range s.recent.trim() {
		delete(s.salts, old.Salt)
	}
}

// refuse makes a refusal; the message is a sentence without its first capital.
func refuse(code, advice, format string, args ...any) *Refused {
	return &Refused{Code: code, Message: fmt.Sprintf(format, args...), Advice: advice}
}

// run dispatches. Before the region has its first command nothing else counts.
func (s *State) run(c *call, cmd Command) *Refused {
	if _, first := cmd.(InitRegion); !first && s.self == nil {
		return refuse("region.none", "create it: sovmesh region init NAME", "this region does not exist yet")
	}
	if c.head.Version > s.Version {
		return refuse("version.early", "raise the state version once every voter runs a program that knows it", "commands of state version %d are not let through yet: the region is at %d", c.head.Version, s.Version)
	}
	switch k := cmd.(type) {
	case InitRegion:
		return s.initRegion(c, k)
	case SetRegionPolicy:
		return s.setRegionPolicy(c, k)
	case ImportLawPack:
		return s.importLawPack(c, k)
	case ActivateLawPack:
		return s.activateLawPack(c, k)
	case SetTenant:
		return s.setTenant(c, k)
	case CreateToken:
		return s.createToken(c, k)
	case RevokeToken:
		return s.revokeToken(c, k)
	case RaiseVersion:
		return s.raiseVersion(c, k)
	case MarkDigest, CompareDigest:
		return nil // what matters is that all replicas see it at one index
	}
	if refused, ok := s.runNode(c, cmd); ok {
		return refused
	}
	if refused, ok := s.runPeer(c, cmd); ok {
		return refused
	}
	if refused, ok := s.runLog(c, cmd); ok {
		return refused
	}
	refused, ok := s.runWork(c, cmd)
	if !ok {
		panic(fmt.Sprintf("state: index %d: no case for %T; upgrade this node", c.index, cmd))
	}
	return refused
}

func (s *State) runNode(c *call, cmd Command) (*Refused, bool) {
	switch k := cmd.(type) {
	case CreateJoinToken:
		return s.createJoinToken(c, k), true
	case JoinNode:
		return s.joinNode(c, k), true
	case SetRole:
		return s.setRole(c, k), true
	case RemoveNode:
		return s.removeNode(c, k), true
	case IssueCertificate:
		return s.issueCertificate(c, k), true
	case ReportInventory:
		return s.reportInventory(c, k), true
	case SetContact:
		return s.setContact(c, k), true
	case CordonNode:
		return s.cordonNode(c, k), true
	case ResumeNode:
		return s.resumeNode(c, k), true
	case DrainNode:
		return s.drainNode(c, k), true
	case ClearDevice:
		return s.clearDevice(c, k), true
	case DrainNodes:
		return s.drainNodes(c, k), true
	case FinishDrain:
		return s.finishDrain(c, k), true
	}
	return nil, false
}

func (s *State) runPeer(c *call, cmd Command) (*Refused, bool) {
	switch k := cmd.(type) {
	case InviteRegion:
		return s.inviteRegion(c, k), true
	case PutPeer:
		return s.putPeer(c, k), true
	case ApprovePeer:
		return s.approvePeer(c, k), true
	case UpdatePeer:
		return s.updatePeer(c, k), true
	case LeavePeer:
		return s.leavePeer(c, k), true
	case Reserve:
		return s.reserve(c, k), true
	case ReleaseReservation:
		return s.releaseReservation(c, k), true
	case IssueGrant:
		return s.issueGrant(c, k), true
	case UseGrant:
		return s.useGrant(c, k), true
	}
	return nil, false
}

func (s *State) runWork(c *call, cmd Command) (*Refused, bool) {
	switch k := cmd.(type) {
	case SubmitJob:
		return s.submitJob(c, k), true
	case StopJob:
		return s.stopJob(c, k), true
	case SetForward:
		return s.setForward(c, k), true
	case MirrorJob:
		return s.mirrorJob(c, k), true
	case Assign:
		return s.assign(c, k), true
	case Preempt:
		return s.preempt(c, k), true
	case StopTasks:
		return s.stopTasks(c, k), true
	case ReportTasks:
		return s.reportTasks(c, k), true
	case MoveTask:
		return s.moveTask(c, k), true
	case NoteTasks:
		return s.noteTasks(c, k), true
	case RenewLeases:
		return s.renewLeases(c, k), true
	}
	return nil, false
}
