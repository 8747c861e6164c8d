package mesh

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// liar answers for a replica that is down, with its certificate and at its
// address: it asks another one for the ledger and changes a byte in every run of
// leaves.
func (m *Mesh) liar(id placement.RegionID, name, asks placement.NodeID) (lies *atomic.Int64) {
	m.t.Helper()
	cred := m.stolen(id, name)
	m.Kill(id, name)
	r, told := m.rogue(cred, m.host(id, name).addr), &atomic.Int64{}
	truth := m.peer(id, asks)
	r.endpoint.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasPrefix(req.URL.Path, api.MeshPrefix+"/ledger/") {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		data := m.truth(r, truth, req.URL.RequestURI())
		if data == nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if strings.Contains(req.URL.Path, "/tile/entries/") {
			data[len(data)/2] ^= 1
			told.Add(1)
		}
		_, _ = w.Write(data)
	}))
	return told
}

// truth is what an honest peer answers. One that has not applied as much as the
// caller is asked again: a liar that does not answer is passed over, and a lie
// without the hashes to it cannot be told from a fault.
func (m *Mesh) truth(r *rogue, honest transport.Peer, uri string) []byte {
	for range 40 {
		res, err := r.ask(http.MethodGet, honest, uri, nil, nil)
		if err == nil {
			data, err := io.ReadAll(io.LimitReader(res.Body, ledger.MaxBundle))
			_ = res.Body.Close()
			if err == nil && res.StatusCode == http.StatusOK && len(data) > 0 {
				return data
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// A fourth node joins a region whose raft log begins after hundreds of leaves. It
// has the same root at once and takes the leaves from its peers; one of them lies,
// is refused by the committed root and named, and the next one is asked. Then the
// new node serves every tile and leaf as the others do, and what was erased before
// it came never reaches it.
func TestAFourthNodeFillsItsLedgerThoughAPeerLies(t *testing.T) {
	Run(t, func(t *testing.T) {
		const word = "zq-an-erased-name"
		m := New(t, Region("fra-1", "FR", 3))
		erased := m.At("fra-1").Submit(`{"kind":"fake","name":"` + word + `","residency":"FR","command":["run","1s"]}`)
		m.Within(20*time.Second, "it ends", erased.Exited(0))
		for range 110 {
			m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["exit","0"]}`)
		}
		m.Within(time.Minute, "all jobs have ended, and left a full tile and more", func() bool {
			v := m.region("fra-1").newest()
			return v.LiveTasks() == 0 && v.PendingCount() == 0 && v.LedgerSize() > ledger.TileWidth
		})
		_, err := m.At("fra-1").EraseOpenings(t.Context(), erased.ID) // and every replica compacts its log
		m.must(err)
		for _, h := range m.region("fra-1").hosts {
			m.Within(30*time.Second, "what was erased is off the disk of "+string(h.name), func() bool { return !h.holds(word) && m.log.count("fra-1/"+string(h.name), "is off this disk") > 0 })
		}
		compacted := m.region("fra-1").newest().LedgerSize()

		lies := m.liar("fra-1", "n1", "n2")
		m.Leader("fra-1")
		m.waitWrites("fra-1")
		h := m.addHost(m.region("fra-1"))
		tok, err := m.At("fra-1").CreateNodeToken(t.Context(), api.NodeTokenRequest{Node: h.name})
		m.must(err)
		m.must(h.join(tok.Token))
		h.start()
		h.waitReady()
		m.Within(time.Minute, "the new node has filled its ledger", func() bool { return m.log.count("fra-1/n4", "took ledger entries from a peer") > 0 })
		if lies.Load() == 0 || m.log.count("fra-1/n4", "refuses ledger entries of a peer") == 0 || m.log.count("fra-1/n4", "peer=n1") == 0 {
			t.Errorf("%d lies were told; the new node's log does not say that it refused n1's", lies.Load())
		}
		m.Within(20*time.Second, "equal roots", func() bool {
			return h.node.View().LedgerRoot() == m.host("fra-1", "n2").node.View().LedgerRoot() && h.node.View().LedgerSize() > compacted
		})
		m.servesAlike("fra-1", "n2", "n4", compacted)
		if h.holds(word) {
			t.Error("what was erased has come to the new node")
		}
		m.CheckInvariants()
	})
}

// waitWrites waits until a region commits.
func (m *Mesh) waitWrites(id placement.RegionID) {
	m.t.Helper()
	m.Within(waitLeader, "it commits", func() bool {
		_, err := m.At(id).TrySubmit(`{"kind":"fake","residency":"FR","command":["exit","0"]}`)
		return err == nil
	})
}

// servesAlike compares all tiles and leaves below a size as two nodes serve them.
func (m *Mesh) servesAlike(id placement.RegionID, a, b placement.NodeID, size uint64) {
	m.t.Helper()
	tok, err := m.At(id).CreateToken(m.t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleAuditor}})
	m.must(err)
	get := func(name placement.NodeID, path string) []byte {
		m.t.Helper()
		status, body := m.request(http.MethodGet, id, name, api.Prefix+"/ledger/"+path, http.Header{"Authorization": {"Bearer " + tok.Secret}}, "")
		if status != http.StatusOK {
			m.t.Errorf("%s of %s: %d %s", path, name, status, body)
		}
		return body
	}
	for bundle := range ledger.Bundles(0, size) {
		for _, path := range []string{bundle.Path(), bundle.Hashes().Path()} {
			if !bytes.Equal(get(a, path), get(b, path)) {
				m.t.Errorf("%s is another one at %s than at %s", path, b, a)
			}
		}
	}
}
