package node

import (
	"errors"
	"net/http"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/gateway"
)

// bearer is the API's check of a token, in the words of the OpenAI surface.
func (n *Node) bearer(r *http.Request) (gateway.Caller, *gateway.Error) {
	caller, err := n.server.Bearer(r)
	if err == nil {
		return gateway.Caller{
			ID: caller.Actor, Tenant: caller.Tenant, Tag: caller.Token.Residency, AllowAny: caller.Token.AllowAny,
		}, nil
	}
	var problem *api.Problem
	if !errors.As(err, &problem) {
		return gateway.Caller{}, &gateway.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: err.Error()}
	}
	out := &gateway.Error{Status: problem.Status, Code: problem.Code, Message: problem.Detail, Advice: problem.Advice, NoRetry: problem.Status < 500}
	if problem.Status == http.StatusUnauthorized {
		out.Code = "invalid_api_key" // what SDKs know
	}
	return gateway.Caller{}, out
}
