package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Error is a refusal in the form of the OpenAI API. It is never retried by an
// SDK when it says so: a refusal by law stays one.
type Error struct {
	Status  int
	Code    string // stable: invalid_api_key, residency_not_permitted, model_not_found …
	Message string // what and why
	Advice  string // what to do
	Param   string // the field or header at fault
	// RetryAfter is sent when it is positive, at most 60 s: SDKs ignore more.
	RetryAfter time.Duration
	// NoRetry tells SDKs not to try again (x-should-retry: false).
	NoRetry bool
	// Regions are those that would satisfy the request's policy. Only a refusal
	// by law has them.
	Regions []placement.RegionID
	// Doors are where the request may be sent instead (421).
	Doors []Door
}

// Door is the API address of a region that may take a request.
type Door struct {
	Region placement.RegionID `json:"region"`
	URL    string             `json:"url"`
}

func (e *Error) Error() string { return e.Message }

// Hint says what to do.
func (e *Error) Hint() string { return e.Advice }

// kind is the error's type as OpenAI names it.
func (e *Error) kind() string {
	switch {
	case e.Status == http.StatusForbidden:
		return "permission_error"
	case e.Status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case e.Status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// wireError is the body of an error, and of the event that ends a cut stream.
type wireError struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Message string               `json:"message"`
	Type    string               `json:"type"`
	Param   *string              `json:"param"`
	Code    *string              `json:"code"`
	Hint    string               `json:"hint,omitempty"`
	Regions []placement.RegionID `json:"regions,omitzero"`
	Doors   []Door               `json:"doors,omitzero"`
}

// wire is the error as JSON. It cannot fail: there are only strings in it.
func (e *Error) wire() []byte {
	b := errorBody{Message: e.Message, Type: e.kind(), Hint: e.Advice, Regions: e.Regions, Doors: e.Doors}
	if e.Advice != "" {
		b.Message += ": " + e.Advice
	}
	if e.Param != "" {
		b.Param = &e.Param
	}
	if e.Code != "" {
		b.Code = &e.Code
	}
	out, err := json.Marshal(wireError{b})
	if err != nil {
		panic(fmt.Sprintf("gateway: an error of strings does not encode: %v", err))
	}
	return out
}

// writeError answers with the error, as JSON also where a stream was asked for.
func writeError(w http.ResponseWriter, e *Error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if e.NoRetry {
		h.Set("X-Should-Retry", "false")
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(seconds(e.RetryAfter)))
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	body := e.wire()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	_, _ = w.Write(body) // a client that has left hears nothing
}

// seconds rounds up, within 1 to 60.
func seconds(d time.Duration) int {
	return int(min(max((d+time.Second-1)/time.Second, 1), 60))
}

// lingers is how long a refused connection stays half open: closed at once, with
// bytes of the body unread, it would be reset, and some systems throw away the
// refusal with it. It is as long as net/http itself waits.
const lingers = 500 * time.Millisecond

// refuseUnread answers a request whose body nobody may read here. The
// connection ends with the answer, and what the client pushes nevertheless is
// not taken from the socket: net/http would read 256 KiB of it on the way out.
func refuseUnread(w http.ResponseWriter, r *http.Request, e *Error) {
	w.Header().Set("Connection", "close")
	c := http.NewResponseController(w)
	// A past deadline ends every further read of this connection. Without
	// support for it (a recorder in a test) there is no socket to protect.
	_ = c.SetReadDeadline(time.Unix(1, 0))
	writeError(w, e)
	if r.ContentLength == 0 || r.ProtoMajor != 1 || c.Flush() != nil {
		return
	}
	wait := time.NewTimer(lingers)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-r.Context().Done():
	}
}

func badRequest(code, param string, err error) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Param: param, Message: err.Error(), NoRetry: true}
}

func notFound(what string) *Error {
	return &Error{
		Status: http.StatusNotFound, Code: "unknown_url", NoRetry: true,
		Message: what + " is not served here",
		Advice:  "this gateway has /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models",
	}
}

func modelNotFound(model string) *Error {
	return &Error{
		Status: http.StatusNotFound, Code: "model_not_found", Param: "model", NoRetry: true,
		Message: fmt.Sprintf("no deployment of the model %q is known to this key", model),
		Advice:  "see GET /v1/models for those that are",
	}
}

// noCapacity: lawful, but nothing healthy serves the model now.
func noCapacity(model string, why string) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: "no_capacity_in_region", RetryAfter: 5 * time.Second,
		Message: fmt.Sprintf("the model %q may run in a region of this mesh, but %s", model, why),
		Advice:  "try again; the request is never sent outside its residency",
	}
}

// regionUnknown: lawful in a region that cannot be reached.
func regionUnknown(model string, region placement.RegionID) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: "region_unknown", RetryAfter: 5 * time.Second,
		Message: fmt.Sprintf("the model %q may run in %s, but there is no contact with that region, so its state is unknown", model, region),
		Advice:  "try again; the request is never sent outside its residency",
	}
}

func upstreamTimeout(s silence) *Error {
	return &Error{Status: http.StatusGatewayTimeout, Code: "upstream_timeout", Message: s.Error()}
}

func upstreamCut(err error) *Error {
	return &Error{
		Status: http.StatusBadGateway, Code: "upstream_cut",
		Message: fmt.Sprintf("the answer of the model server broke off: %v", err),
		Advice:  "what was received is a part of the answer; send the request again",
	}
}
