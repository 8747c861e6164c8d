package consensus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestFollowersHearOfACommitAtOnce: raft by itself would tell them after an hour.
func TestFollowersHearOfACommitAtOnce(t *testing.T) {
	r := newRegion(t, 3, func(c *Config) { c.CommitTimeout = time.Hour })
	for range 3 {
		job := r.job()
		if _, err := r.leader().Propose(timeout(t), job, "tok"); err != nil {
			t.Fatal(err)
		}
		for id, s := range r.nodes {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			for s.View().Job(job.Job.ID) == nil && ctx.Err() == nil {
				_, _ = s.Wait(ctx, s.View().Index())
			}
			if ctx.Err() != nil {
				t.Errorf("%s does not know what was committed", id)
			}
			cancel()
		}
	}
}

// A heard pipeline answers nothing and keeps what was sent.
type heard struct {
	mu   sync.Mutex
	sent []raft.AppendEntriesRequest
	done chan raft.AppendFuture
}

func (h *heard) AppendEntries(req *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, *req)
	return nil, nil
}

func (h *heard) Consumer() <-chan raft.AppendFuture { return h.done }
func (h *heard) Close() error                       { return nil }

// TestOnlyWhatWasAppliedIsToldAsCommitted: an entry that a later leader replaced has
// the index of one that is committed, and is none.
func TestOnlyWhatWasAppliedIsToldAsCommitted(t *testing.T) {
	send := func(index, term uint64) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: index - 1, PrevLogTerm: term, LeaderCommitIndex: index - 1, Entries: []*raft.Log{{Index: index, Term: term}}}
	}
	for _, test := range []struct {
		name string
		sent []*raft.AppendEntriesRequest
		last entry
		told bool
	}{
		{"the last one that was sent", []*raft.AppendEntriesRequest{send(9, 2), send(10, 2)}, entry{10, 2}, true},
		{"one of another term in its place", []*raft.AppendEntriesRequest{send(10, 2)}, entry{10, 3}, false},
		{"one before what is under way", []*raft.AppendEntriesRequest{send(10, 2), send(11, 2)}, entry{10, 2}, false},
		{"one that was never sent", []*raft.AppendEntriesRequest{send(10, 2)}, entry{11, 2}, false},
		{"told already", []*raft.AppendEntriesRequest{send(10, 2), {Term: 2, PrevLogEntry: 10, PrevLogTerm: 2, LeaderCommitIndex: 10}}, entry{10, 2}, false},
		{"a snapshot, of no term", []*raft.AppendEntriesRequest{send(10, 2)}, entry{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			never := make(chan struct{})
			below := &heard{done: make(chan raft.AppendFuture)}
			p := newTeller(below, func() (entry, <-chan struct{}) { return entry{}, never })
			defer p.Close()
			for _, req := range test.sent {
				if _, err := p.AppendEntries(req, nil); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // once is enough
				if err := p.say(test.last); err != nil {
					t.Fatal(err)
				}
			}
			told := below.sent[len(test.sent):]
			switch {
			case !test.told && len(told) > 0:
				t.Errorf("the follower was told %+v", told)
			case test.told && len(told) != 1:
				t.Errorf("the follower was told %d times", len(told))
			case test.told && (told[0].LeaderCommitIndex != test.last.index || told[0].PrevLogEntry != test.last.index || told[0].PrevLogTerm != test.last.term || told[0].Term != 2 || len(told[0].Entries) > 0):
				t.Errorf("the follower was told %+v", told[0])
			}
		})
	}
}

// TestATellerDoesNotWaitForRaft: an unread answer holds up no send, and Close ends it.
func TestATellerDoesNotWaitForRaft(t *testing.T) {
	below := &heard{done: make(chan raft.AppendFuture)}
	p := newTeller(below, func() (entry, <-chan struct{}) { return entry{}, nil })
	for range unreadAnswers {
		select {
		case below.done <- nil:
		case <-time.After(20 * time.Second):
			t.Fatal("an answer that raft does not read holds up those behind it")
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
