package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// moves is how this node's runner hands tasks over and takes them: by the ledger's
// word, over the mesh's own connections, within the region and the job's tag.
type moves struct{ n *Node }

// decideWithin bounds one proposal, streamWithin the opening of a stream.
const (
	decideWithin = 20 * time.Second
	streamWithin = 20 * time.Second
)

// Decide proposes the end of a move.
func (m moves) Decide(ctx context.Context, from, to placement.TaskID, end runner.MoveEnd) error {
	ctx, cancel := context.WithTimeout(ctx, decideWithin)
	defer cancel()
	cmd := state.MoveTask{Node: m.n.who.Node, Task: from, To: to, Step: state.MoveAbort, Reason: shortened(end.Reason), Blameless: end.Blameless}
	if end.Commit {
		cmd.Step, cmd.Reason, cmd.Blameless = state.MoveCommit, "", false
	}
	res, err := m.n.ledger.Propose(ctx, cmd, m.n.actor())
	var refused *state.Refused
	if errors.As(err, &refused) {
		res, err = state.Result{Refused: refused}, nil
	}
	if err == nil && res.Refused != nil {
		return &runner.MoveRefusedError{Reason: res.Refused.Message, Taken: res.Refused.Code == state.CodeMoveTaken}
	}
	return err
}

// moveReasonMax bounds a reason in bytes, below what the ledger refuses.
const moveReasonMax = 900

func shortened(reason string) string {
	if len(reason) <= moveReasonMax {
		return reason
	}
	return fmt.Sprintf("%.*s...", moveReasonMax/4, reason) // runes: four bytes each at most
}

// peer is the node of a task that takes one over, if the job may go there.
func (m moves) peer(to placement.Task) (transport.Peer, *placement.Job, error) {
	view := m.n.ledger.View()
	node, job := view.Node(to.Node), view.Job(to.Job)
	if node == nil || job == nil {
		return transport.Peer{}, nil, fmt.Errorf("node %s or job %s is not known any more", to.Node, to.Job)
	}
	if err := m.n.lawfulAt(view, job, node); err != nil {
		return transport.Peer{}, nil, &runner.UnlawfulError{Err: err}
	}
	return transport.Peer{ID: m.n.id(m.n.who.Region, node.ID), Addr: node.QUIC}, job, nil
}

// Lawful judges whether a task that takes one over may be where it is to be.
func (m moves) Lawful(to placement.Task) error {
	if to.Node == "" {
		to.Node = m.n.who.Node
	}
	_, _, err := m.peer(to)
	return err
}

// Ready asks the other node whether it waits for the task.
func (m moves) Ready(ctx context.Context, to placement.Task) (bool, error) {
	peer, job, err := m.peer(to)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, streamWithin)
	defer cancel()
	return m.n.mesh.For(job.Tenant).MoveReady(ctx, peer, to.ID)
}

// Open makes a stream to it, judged before its first byte.
func (m moves) Open(ctx context.Context, to placement.Task, name string) (net.Conn, error) {
	peer, job, err := m.peer(to)
	if err != nil {
		return nil, err
	}
	policy, err := m.n.ledger.View().PolicyOf(job)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, streamWithin)
	defer cancel()
	session := strings.HasPrefix(name, runner.SessionStream)
	conn, err := m.n.mesh.For(job.Tenant).MoveStream(ctx, peer, policy, to.ID, name, session)
	if err != nil || !session {
		return conn, err
	}
	return m.n.relays.keep(conn, to.Node, job), nil
}

// Expects reports whether a task of this node waits for what the asking node runs.
func (m moves) Expects(from placement.NodeID, task placement.TaskID) (bool, error) {
	view := m.n.ledger.View()
	to, old := view.Task(task), view.MovesFrom(task)
	if to == nil || to.Node != m.n.who.Node {
		return false, nil // this node may not know of it yet: nothing waits for it
	}
	if old == nil || old.Node != from {
		return false, &api.MoveRefusal{Reason: fmt.Sprintf("node %s runs nothing that task %s is to take over", from, task)}
	}
	self, job := view.Node(m.n.who.Node), view.Job(to.Job)
	if self == nil || job == nil {
		return false, errors.New("this node does not know its region's ledger yet")
	}
	if err := m.n.lawfulAt(view, job, self); err != nil {
		return false, &api.MoveRefusal{Reason: err.Error()}
	}
	return m.n.runner.Expects(task), nil
}

// Deliver hands the task a stream of its move.
func (m moves) Deliver(task placement.TaskID, name string, conn net.Conn) error {
	if !strings.HasPrefix(name, runner.SessionStream) {
		return m.n.runner.Deliver(task, name, conn)
	}
	view := m.n.ledger.View()
	to, old := view.Task(task), view.MovesFrom(task)
	if to == nil || old == nil || view.Job(to.Job) == nil {
		return fmt.Errorf("task %s takes nothing over any more", task)
	}
	conn = m.n.relays.keep(conn, old.Node, view.Job(to.Job))
	err := m.n.runner.Deliver(task, name, conn)
	if err != nil {
		_ = conn.Close()
	}
	return err
}
