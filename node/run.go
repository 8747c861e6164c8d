package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"crypto/tls"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// closeWithin bounds how long requests in progress may take to end.
const closeWithin = 3 * time.Second

// Run serves until ctx ends or a part fails. No goroutine outlives it.
func (n *Node) Run(ctx context.Context) error {
	unlock, err := n.dir.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := n.devices.begin(ctx, takeInventory(ctx, n.cfg, n.deps, uint64(n.deps.now().Unix()))); err != nil {
		return err
	}
	parts := []part{{name: "endpoint", run: n.endpoint.Run}}
	if n.group != nil {
		parts = append(parts, part{name: "consensus", run: n.group.Run}, part{name: "founding", run: n.found, ready: n.founded})
	}
	if n.facts != nil {
		parts = append(parts, part{name: "facts", run: n.facts.run}, part{name: "voters", run: n.facts.keepVoters})
	}
	n.announce() // a machine with more devices than gossip carries serves all the same
	parts = append(parts,
		part{name: "gossip", run: n.gossip.Run},
		part{name: "keyring", run: n.keyring.follow},
		part{name: "bundles", run: n.keepBundles},
		part{name: "links", run: n.links.run},
		part{name: "certificates", run: n.renewCertificates},
		part{name: "relays", run: n.judgeRelays},
		part{name: "runner", run: n.runner.Run},
		part{name: "inventory", run: n.settle},
		part{name: "devices", run: n.devices.run},
	)
	if n.group != nil {
		parts = append(parts, part{name: "witness", run: n.witness.Run}, part{name: "services", run: n.server.JudgeServices}, part{name: "controller", run: n.lead})
	}
	parts = append(parts, part{name: "receipts", run: n.receipts.Run}, part{name: "gateway", run: n.gateway.Run}, part{name: "app listener", run: n.serveApp})
	return runInOrder(ctx, parts...)
}

// lead runs the controller whenever this node leads its region.
func (n *Node) lead(ctx context.Context) error {
	return n.group.Lead(ctx, func(ctx context.Context) {
		var watching sync.WaitGroup
		defer watching.Wait()
		watching.Go(func() { n.answers.watch(ctx) })
		watching.Go(func() { n.keyring.lead(ctx) })
		watching.Go(func() { n.witness.Lead(ctx) })
		if err := n.controller.Lead(ctx); err != nil && ctx.Err() == nil {
			n.deps.Log.Error("the controller stopped; it begins again with the next term", "err", err)
		}
	})
}

// found commits the first commands of a new region, once.
func (n *Node) found(ctx context.Context) error {
	if n.dir.has(fileFounding) {
		var first founding
		if err := n.dir.readJSON(fileFounding, &first); err != nil {
			return err
		}
		if err := n.commitFounding(ctx, first); err != nil {
			return err
		}
	}
	close(n.founded)
	<-ctx.Done()
	return nil
}

func (n *Node) commitFounding(ctx context.Context, first founding) error {
	if _, err := n.group.Bootstrap(ctx, first.Init, n.actor()); err != nil {
		if errors.Is(err, consensus.ErrStopped) {
			<-ctx.Done() // consensus ends the node, and says why
		}
		if ctx.Err() != nil {
			return nil
		}
		// After a crash in the middle the region is there already.
		if n.ledger.View().Self() == nil {
			return err
		}
	}
	res, err := n.group.Propose(ctx, first.Token, n.actor())
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	case res.Refused != nil && n.ledger.View().TokenByID(first.Token.Token.ID) == nil:
		return res.Refused
	}
	return n.dir.remove(fileFounding)
}

// settle reports what the node has, takes the region's keys if it votes, and
// says when the node is ready. Then it stays.
func (n *Node) settle(ctx context.Context) error {
	if err := n.reportInventory(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil // told to end before it was ready
	}
	if n.facts != nil {
		if _, err := n.facts.Wait(ctx, 0); err != nil {
			return nil
		}
	}
	n.readyOnce.Do(func() { close(n.ready) })
	for ctx.Err() == nil {
		n.takeKeys(ctx)
		pause(ctx, 10*retryEvery)
	}
	return nil
}

// takeKeys asks another voter for the CA when this node votes and has none.
func (n *Node) takeKeys(ctx context.Context) {
	if n.group == nil || n.authority.holds() {
		return
	}
	if !n.votes(n.who.Node) {
		return
	}
	for _, voter := range n.voters() {
		asked, cancel := context.WithTimeout(ctx, 2*time.Second)
		secrets, err := n.mesh.Authority(asked, voter)
		cancel()
		if err == nil {
			err = n.authority.take(secrets, n.who.Region, n.who.Mesh)
		}
		if err == nil {
			n.deps.Log.Info("took over the region's keys", "from", voter.ID.Node)
			return
		}
		n.deps.Log.Debug("the region's keys were not handed over", "from", voter.ID.Node, "err", err)
	}
}

// renewCertificates asks for new certificates at half of their life, while the
// node runs.
func (n *Node) renewCertificates(ctx context.Context) error {
	// Nodes that started together shall not renew together.
	jitter := float64(len(n.who.Node)%7) / 7
	for ctx.Err() == nil {
		at := n.credential.Current().RenewAt(jitter)
		if wait := at.Sub(n.deps.now()); wait > 0 {
			pause(ctx, wait)
			continue
		}
		if err := n.renew(ctx); err != nil && ctx.Err() == nil {
			n.deps.Log.Warn("the certificate was not renewed yet", "until", n.credential.Current().Leaf.NotAfter, "err", err)
			pause(ctx, 10*retryEvery)
		}
	}
	return nil
}

func (n *Node) renew(ctx context.Context) error {
	keys, err := newKeys()
	if err != nil {
		return err
	}
	chain, serving, err := n.certify(ctx, keys)
	if err != nil {
		return err
	}
	cred, srv, err := keys.certified(chain, serving)
	if err != nil {
		return err
	}
	if err := n.credential.Swap(cred); err != nil {
		return err
	}
	n.serving.Swap(srv)
	n.deps.Log.Info("renewed the certificate", "until", cred.Leaf.NotAfter)
	return storeCertificates(n.dir, cred, srv)
}

// certify signs the keys with this node's own CA if it holds one, else a voter does.
func (n *Node) certify(ctx context.Context, keys keys) (chain, serving [][]byte, err error) {
	if !n.authority.holds() {
		errs := []error{errNoAuthority}
		for _, voter := range n.voters() {
			asked, cancel := context.WithTimeout(ctx, 5*time.Second)
			answer, err := n.mesh.Certificate(asked, voter, api.CertificateRequest{CSR: keys.nodeCSR, ServingCSR: keys.servingCSR, Hosts: n.cfg.hosts()})
			cancel()
			if err == nil {
				return answer.Chain, answer.ServingChain, nil
			}
			errs = append(errs, err)
		}
		return nil, nil, errors.Join(errs...)
	}
	chain, serial, notAfter, err := n.authority.IssueNode(ctx, keys.nodeCSR, n.who.Node)
	if err != nil {
		return nil, nil, err
	}
	if serving, err = n.authority.IssueServing(ctx, keys.servingCSR, n.cfg.hosts()); err != nil {
		return nil, nil, err
	}
	res, err := n.ledger.Propose(ctx, state.IssueCertificate{Node: n.who.Node, Serial: serial, NotAfter: notAfter, SHA256: hashHex(sha256.Sum256(chain[0]))}, n.actor())
	if err == nil && res.Refused != nil {
		err = res.Refused
	}
	return chain, serving, err
}

// serveHTTPS serves ordinary clients until ctx ends, then lets requests in
// progress end for a moment and closes the rest.
func serveHTTPS(ctx context.Context, l net.Listener, serving *identity.ServingSource, h http.Handler, log *slog.Logger) error {
	srv := api.NewAppServer(h, log)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(tls.NewListener(l, api.AppTLS(identity.ServingConfig(serving)))) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
	defer cancel()
	if srv.Shutdown(late) != nil {
		_ = srv.Close()
	}
	<-failed
	return nil
}
