package node

import (
	"context"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/node/gateway"
)

// noReceipts is what the gateway of a worker has for a keeper of receipts: a
// chain of receipts ends in the ledger, which a worker does not hold. What needs
// evidence is refused there; what does not is answered, and said to be dropped.
// A model on a worker is served to whoever asks at another node, which keeps the
// receipt.
type noReceipts struct{}

func (noReceipts) Ready() *gateway.ReceiptError { return noReceipt{required: true}.dropped() }

func (noReceipts) Begin(b gateway.ReceiptBegin) gateway.Receipt { return noReceipt{b.Required} }

func (noReceipts) Find(context.Context, string) (owner string, doc any, err *gateway.Error) {
	return "", nil, &gateway.Error{Status: http.StatusNotFound, Code: "receipt_not_found", NoRetry: true, Message: "this node, a worker, keeps no receipts", Advice: "ask the node that gave it: a voter or standby"}
}

type noReceipt struct{ required bool }

func (r noReceipt) dropped() *gateway.ReceiptError {
	return &gateway.ReceiptError{Why: "this node, a worker, keeps no receipts: ask a voter or standby", RetryAfter: time.Second, Dropped: !r.required}
}

func (noReceipt) Write(p []byte) (int, error) { return len(p), nil }

func (r noReceipt) Promise(context.Context) (string, *gateway.ReceiptError) { return "", r.dropped() }

func (r noReceipt) Finish(context.Context, gateway.ReceiptEnd) (string, *gateway.ReceiptError) {
	return "", r.dropped()
}
