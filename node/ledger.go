package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// ledger is the region's replicated state as this node reaches it: its own
// replica on voters and standbys; on workers, what most voters tell alike. The
// API, the controller, the runner and the gateway see no difference.
type ledger struct {
	n *Node
	// erased and erasures belong to Next, which the runner alone calls.
	erased   map[placement.JobID]bool
	erasures uint64 // sequence number of the newest one in erased
}

// errNoReplica is the answer of a worker to what only a replica can do.
var errNoReplica = errors.New("this node holds no replica of its region's ledger; ask a voter")

func (l *ledger) View() *state.View {
	if l.n.group == nil {
		return l.n.facts.View()
	}
	return l.n.group.View()
}

func (l *ledger) Wait(ctx context.Context, after uint64) (*state.View, error) {
	if l.n.group == nil {
		return l.n.facts.Wait(ctx, after)
	}
	return l.n.group.Wait(ctx, after)
}

func (l *ledger) ReadIndex(ctx context.Context) (uint64, error) {
	if l.n.group == nil {
		return 0, errNoReplica
	}
	ctx, cancel := context.WithTimeout(ctx, readIndexWithin)
	defer cancel()
	for {
		view, err := l.n.group.ReadIndex(ctx)
		if err == nil {
			return view.Index(), nil
		}
		var elsewhere *consensus.NotLeader
		if !errors.As(err, &elsewhere) {
			return 0, err
		}
		if index, ok := l.askIndex(ctx, elsewhere); ok {
			return index, nil
		}
		// An election is going on, or the leader was lost this moment.
		pause(ctx, retryEvery)
		if ctx.Err() != nil {
			return 0, errors.Join(err, context.Cause(ctx))
		}
	}
}

// readIndexWithin bounds the wait of a reader for a leader.
const readIndexWithin = 5 * time.Second

// askIndexWithin bounds one question: a leader that was just lost must not
// hold a reader up for longer than an election takes.
const askIndexWithin = time.Second

// askIndex is the index that the leader vouches for.
func (l *ledger) askIndex(ctx context.Context, leader *consensus.NotLeader) (uint64, bool) {
	if leader.Leader == "" || leader.Leader == l.n.who.Node || leader.Addr == "" {
		return 0, false
	}
	asked, cancel := context.WithTimeout(ctx, askIndexWithin)
	defer cancel()
	said, err := l.n.mesh.Hello(asked, transport.Peer{ID: l.n.id(l.n.who.Region, leader.Leader), Addr: leader.Addr})
	if err != nil || !said.Leader {
		return 0, false
	}
	return said.Index, true
}

func (l *ledger) ProposeRaw(ctx context.Context, raw []byte) (state.Result, error) {
	if l.n.group == nil {
		return state.Result{}, errNoReplica
	}
	return l.n.group.ProposeRaw(ctx, raw)
}

func (l *ledger) Leader() (placement.NodeID, bool) {
	if l.n.group == nil {
		return "", false
	}
	return l.n.group.Leader()
}

func (l *ledger) leads() bool {
	leader, ok := l.Leader()
	return ok && leader == l.n.who.Node
}

// Propose commits a command, wherever the leader is.
func (l *ledger) Propose(ctx context.Context, cmd state.Command, actor string) (state.Result, error) {
	if l.n.group != nil {
		return l.n.group.Propose(ctx, cmd, actor)
	}
	head := state.Head{Version: 1, Time: l.n.deps.now(), Actor: actor}
	if _, err := rand.Read(head.Salt[:]); err != nil {
		return state.Result{}, err
	}
	raw, err := state.Encode(head, cmd)
	if err != nil {
		return state.Result{}, err
	}
	// The salt makes it harmless to ask a second voter after a lost answer.
	var errs []error
	for ctx.Err() == nil {
		for _, voter := range l.n.voters() {
			res, err := l.n.mesh.Propose(ctx, voter, raw)
			if err == nil {
				return res, nil
			}
			errs = append(errs[max(0, len(errs)-4):], fmt.Errorf("%s: %w", voter.ID.Node, err))
		}
		pause(ctx, retryEvery)
	}
	return state.Result{}, errors.Join(append(errs, ctx.Err())...)
}

// Report tells the region what became of this node's tasks.
func (l *ledger) Report(ctx context.Context, reports []placement.TaskReport) error {
	res, err := l.Propose(ctx, state.ReportTasks{Node: l.n.who.Node, Reports: reports}, l.n.actor())
	var refused *state.Refused
	if errors.As(err, &refused) {
		res, err = state.Result{Refused: refused}, nil
	}
	if err != nil {
		return err
	}
	if res.Refused == nil {
		return nil
	}
	l.n.deps.Log.Warn("a report was refused", "err", res.Refused)
	if len(reports) == 1 {
		return nil // committed, and final: the same words would be refused again
	}
	// One that cannot be taken shall not silence the others.
	for _, one := range reports {
		if err := l.Report(ctx, []placement.TaskReport{one}); err != nil {
			return err
		}
	}
	return nil
}

// Note keeps notes about this node's tasks in the ledger. What the region refuses
// is said here and nowhere else: the same words would be refused again.
func (l *ledger) Note(ctx context.Context, notes []placement.TaskNote) error {
	for part := range slices.Chunk(notes, placement.MaxNotes) {
		res, err := l.Propose(ctx, state.NoteTasks{Node: l.n.who.Node, Notes: part}, l.n.actor())
		var refused *state.Refused
		if errors.As(err, &refused) {
			res, err = state.Result{Refused: refused}, nil
		}
		if err != nil {
			return err
		}
		if res.Refused != nil {
			l.n.deps.Log.Warn("notes about tasks were refused", "err", res.Refused)
		}
	}
	return nil
}

// Next is this node's committed set of tasks, once it is newer than after.
func (l *ledger) Next(ctx context.Context, after uint64) (runner.Wanted, error) {
	view, err := l.Wait(ctx, after)
	if err != nil {
		return runner.Wanted{}, err
	}
	if more := view.Erasures(l.erasures); len(more) > 0 {
		l.erased = maps.Clone(l.erased) // the runner reads the old one
		if l.erased == nil {
			l.erased = map[placement.JobID]bool{}
		}
		for _, e := range more {
			l.erased[e.Job], l.erasures = true, e.Seq
		}
	}
	out := runner.Wanted{Index: view.Index(), Erased: l.erased, Whole: l.n.group != nil, Over: func(id placement.JobID) (over, known bool) {
		job := view.Job(id)
		return job != nil && job.Status.Terminal(), job != nil
	}}
	for _, t := range view.TasksOn(l.n.who.Node) {
		if job := view.Job(t.Job); job != nil {
			out.Tasks = append(out.Tasks, runner.Want{Task: *t, Job: *job, Hosts: gangHosts(view, t, job), MovesTo: view.MoveOf(t.ID)})
		}
	}
	return out, nil
}

// gangHosts are the hosts of a gang's members, by rank: of those that started
// together with the task.
func gangHosts(view *state.View, t *placement.Task, job *placement.Job) []string {
	if !job.Spec.Gang() || !t.StartedAt.IsZero() {
		return nil
	}
	out := make([]string, job.Spec.Size())
	_, now, _ := t.ID.Member()
	for _, m := range view.TasksOf(job.ID) {
		rank, attempt, ok := m.ID.Member()
		if node := view.Node(m.Node); ok && attempt == now && rank < len(out) && node != nil {
			out[rank] = node.Host()
		}
	}
	return out
}

// ledgerFiles is the replica's ledger on disk, nil until the group has opened it.
func (n *Node) ledgerFiles() api.LedgerFiles {
	if s := n.group.Ledger(); s != nil {
		return s
	}
	return nil
}

// oldLedger is a log that the region had before a recovery.
func (n *Node) oldLedger(restarts int) (api.LedgerFiles, error) {
	s, err := n.group.OldLedger(restarts)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (n *Node) ledgerState() api.LedgerState {
	here, whole, voters := n.group.LedgerStatus()
	return api.LedgerState{Size: here.Size, Missing: here.Missing, Whole: whole, Voters: voters}
}
