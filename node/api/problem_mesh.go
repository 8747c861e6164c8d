package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// problemOfMesh explains what went wrong between nodes. What nobody foresaw is
// an internal fault: its words go to the log, not to the caller.
func problemOfMesh(err error) *Problem {
	var (
		gone   *transport.UnreachableError
		egress *transport.EgressError
		who    *identity.RefusedError
		hinted interface{ Hint() string }
	)
	switch {
	case errors.As(err, &egress):
		var refusal *residency.Refusal
		if errors.As(egress.Err, &refusal) {
			return problemOfDecision(refusal.Decision, egress.Error(), egress.Hint())
		}
		return newProblem(http.StatusForbidden, CodeNotLawful, egress.Error(), egress.Hint()).final()
	case errors.As(err, &gone):
		return newProblem(http.StatusServiceUnavailable, CodePeerUnknown, fmt.Sprintf("no answer from %s: whether it works is unknown", gone.Peer.ID.Region), gone.Hint()).retry(2 * time.Second)
	case errors.As(err, &who):
		return newProblem(http.StatusUnauthorized, "identity."+reasonCode(who.Reason), who.Error(), who.Hint())
	case errors.Is(err, consensus.ErrNoLeader):
		return newProblem(http.StatusServiceUnavailable, CodeLeaderUnknown, "the region has no leader at the moment", "ask again; if it lasts, fewer than half of the voters are up: sovmesh status").retry(time.Second)
	case errors.As(err, &hinted):
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, err.Error(), hinted.Hint()).retry(time.Second)
	}
	return newProblem(http.StatusInternalServerError, CodeInternal, "this node could not do it", "see the node's log for the request id")
}

func reasonCode(r identity.Reason) string {
	b := []byte(r)
	for i, c := range b {
		if c == ' ' || c == '\'' {
			b[i] = '-'
		}
	}
	return string(b)
}
