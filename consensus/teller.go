package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// unreadAnswers is how many answers of a follower may wait for raft. Raft may have
// stopped to read them when it learns that it should close the pipeline, and must
// not be held up until then by one that it does not read.
const unreadAnswers = 64

// teller is the leader's pipeline to one follower, which says that entries are
// committed as soon as this node has applied them. Raft itself says so with the
// next entries, or after its CommitTimeout: a task that is placed on a follower
// would wait for that.
//
// What it says is what raft would say later: an append of no entries behind the
// last one that was sent. It says that of an entry which this node has applied, by
// index and term: such a one is committed for ever, whoever leads by now, and a
// follower that has it has all before it. While more entries are under way it says
// nothing: they tell it themselves, or their own commit does.
type teller struct {
	raft.AppendPipeline
	applied func() (entry, <-chan struct{})
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
	work    sync.WaitGroup

	// turn holds one token, which is taken for a send: they leave in order. Not a
	// mutex, since a follower that hangs blocks a send for long.
	turn  chan struct{}
	empty raft.AppendEntriesRequest // of whoever has the token: an append behind all that was sent
}

func newTeller(p raft.AppendPipeline, applied func() (entry, <-chan struct{})) *teller {
	t := &teller{AppendPipeline: p, applied: applied, answers: make(chan raft.AppendFuture, unreadAnswers), closed: make(chan struct{}), turn: make(chan struct{}, 1)}
	t.work.Go(t.tell)
	t.work.Go(t.pass)
	return t
}

// tell follows what this node applies until the pipeline is closed.
func (t *teller) tell() {
	for {
		last, changed := t.applied()
		if err := t.say(last); err != nil {
			return // raft meets the same error with its own next one
		}
		select {
		case <-changed:
		case <-t.closed:
			return
		}
	}
}

// say tells the follower of a commit if nothing else will.
func (t *teller) say(last entry) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-t.closed:
		return raft.ErrPipelineShutdown
	}
	if last != (entry{t.empty.PrevLogEntry, t.empty.PrevLogTerm}) || t.empty.LeaderCommitIndex >= last.index {
		return nil
	}
	t.empty.LeaderCommitIndex = last.index
	req := t.empty
	_, err := t.AppendPipeline.AppendEntries(&req, new(raft.AppendEntriesResponse))
	return err
}

// pass hands answers on, so that they do not hold up sends.
func (t *teller) pass() {
	for {
		select {
		case f := <-t.AppendPipeline.Consumer():
			select {
			case t.answers <- f:
			case <-t.closed:
				return
			}
		case <-t.closed:
			return
		}
	}
}

// AppendEntries implements raft.AppendPipeline.
func (t *teller) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	t.empty = *req
	t.empty.Entries = nil
	if n := len(req.Entries); n > 0 {
		last := req.Entries[n-1]
		t.empty.PrevLogEntry, t.empty.PrevLogTerm = last.Index, last.Term
	}
	return t.AppendPipeline.AppendEntries(req, resp)
}

// Consumer implements raft.AppendPipeline.
func (t *teller) Consumer() <-chan raft.AppendFuture { return t.answers }

// Close implements raft.AppendPipeline.
func (t *teller) Close() error {
	t.once.Do(func() { close(t.closed) })
	err := t.AppendPipeline.Close()
	t.work.Wait()
	return err
}
