package mesh

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// lawHolds is how soon an open connection ends that the law does not allow any more.
const lawHolds = 15 * time.Second

// opens has a task open a connection to a service, which gives back what it hears.
func (c *callers) opens(from, service string) net.Conn {
	c.t.Helper()
	conn, err := c.connect(from, service, fake.EchoPort)
	if err != nil {
		c.t.Fatalf("%s does not reach %s: %v", from, service, err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	c.echoes(conn, from)
	return conn
}

func (c *callers) echoes(conn net.Conn, who string) {
	c.t.Helper()
	back := make([]byte, 4)
	if _, err := io.WriteString(conn, "word"); err != nil {
		c.t.Errorf("%s: %v", who, err)
	} else if _, err := io.ReadFull(conn, back); err != nil || string(back) != "word" {
		c.t.Errorf("%s hears %q, %v", who, back, err)
	}
}

// withoutGermany is a law pack under which Germany has left the Union.
func withoutGermany(t *testing.T) map[string][]byte {
	t.Helper()
	tables := residency.Embedded().Tables()
	was := string(tables["groups.csv"])
	tables["groups.csv"] = []byte(strings.Replace(was, "\nEU,DE,1958-01-01,,", "\nEU,DE,1958-01-01,2020-01-01,", 1))
	if string(tables["groups.csv"]) == was {
		t.Fatal("the table of groups has another form")
	}
	return tables
}

// newLaw gives the pack to all regions and has one of them decide by it.
func (c *callers) newLaw(at placement.RegionID) {
	c.t.Helper()
	hash := ""
	for _, id := range []placement.RegionID{"fra-1", "ber-1"} {
		info, err := c.At(id).ImportLaw(c.t.Context(), withoutGermany(c.t))
		c.must(err)
		hash = info.Hash
	}
	_, err := c.At(at).ActivateLaw(c.t.Context(), hash)
	c.must(err)
}

// abroad runs a service that has to run in Germany, where the GPUs are.
func (c *callers) abroad(at *Client, name, rest string) *Job {
	c.t.Helper()
	j := c.runs(at, name, `"resources":{"gpus":1},`+rest)
	if doc := j.Now(); doc.Region != "ber-1" || j.Landed != "fra-1" {
		c.t.Fatalf("%s landed in %s and runs in %s", name, j.Landed, doc.Region)
	}
	return j
}

// An open connection that a new law does not allow any more is reset, in whichever
// region the law changed and on whichever side the caller is, and its caller's node
// knows that a rule did it. What stays allowed goes on.
func TestAnOpenServiceConnectionEndsWithTheLaw(t *testing.T) {
	for _, at := range []placement.RegionID{"fra-1", "ber-1"} {
		t.Run(string(at), func(t *testing.T) {
			Run(t, func(t *testing.T) {
				c := newCallers(t, 2)
				fr := c.At("fra-1")
				c.abroad(fr, "db", `"residency":"EU",`+portSeven)
				c.runs(fr, "home", `"residency":"EU",`+lists("db", "front"))
				c.runs(fr, "front", `"residency":"EU",`+portSeven)
				c.abroad(fr, "away", `"residency":"EU",`+lists("front"))
				stays := c.opens("home", "front")
				ends := map[string]net.Conn{"home": c.opens("home", "db"), "away": c.opens("away", "front")}
				time.Sleep(time.Minute) // of passes that change nothing
				c.echoes(ends["home"], "home")
				c.echoes(ends["away"], "away")
				c.newLaw(at)
				for from, conn := range ends {
					ended := make(chan error, 1)
					go func() { _, err := conn.Read(make([]byte, 1)); ended <- err }()
					select {
					case err := <-ended:
						var rule interface{ Refused() bool }
						if !errors.As(err, &rule) || !rule.Refused() {
							t.Errorf("what %s has open ends with %v, which is no rule's", from, err)
						}
					case <-time.After(lawHolds):
						t.Errorf("what %s has open outlives the law by %s", from, lawHolds)
					}
				}
				c.refused("home", "db", fake.EchoPort, "")
				c.refused("away", "front", fake.EchoPort, "")
				c.echoes(stays, "home")
			})
		})
	}
}

// A region that goes on with what its peer's law forbids is cut off by the peer, and
// hears the rule and nothing else.
func TestARegionThatLiesKeepsNoConnectionOpen(t *testing.T) {
	Run(t, func(t *testing.T) {
		c := newCallers(t, 2)
		fr := c.At("fra-1")
		c.runs(fr, "front", `"residency":"EU",`+portSeven)
		away := c.abroad(fr, "away", `"residency":"EU",`+lists("front"))
		liar := c.rogue(c.stolen("ber-1", "n1"), outside(1))
		defer liar.stop()
		head, err := json.Marshal(api.ServiceHead{Port: fake.EchoPort, Job: away.ID})
		c.must(err)
		frame := func(kind byte, payload []byte) []byte {
			return append([]byte{kind, 0, byte(len(payload) >> 8), byte(len(payload))}, payload...)
		}
		body, feed := io.Pipe()
		defer body.Close()
		go func() { _, _ = feed.Write(append(frame(1, head), frame(2, []byte("word"))...)) }()
		home := c.peer("fra-1", "n1")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+home.Addr+api.MeshPrefix+"/services/front", body)
		c.must(err)
		req.Header.Set("Content-Type", api.MediaFrames)
		res, err := liar.endpoint.Do(t.Context(), home, transport.Cargo{Kind: transport.CargoStatus}, req)
		c.must(err)
		defer res.Body.Close()
		want := append(frame(5, nil), frame(5, []byte("word"))...)
		if got := make([]byte, len(want)); true {
			if _, err := io.ReadFull(res.Body, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%q, %v", got, err)
			}
		}
		c.newLaw("fra-1")
		rest := make(chan string, 1)
		go func() {
			all, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
			rest <- string(all)
		}()
		select {
		case said := <-rest:
			if !strings.Contains(said, `"status":403`) || !strings.Contains(said, `"code":"residency.`) || strings.Contains(said, "ended") || strings.Contains(said, "n1") || strings.Contains(said, "n2") {
				t.Errorf("it hears %q", said)
			}
		case <-time.After(lawHolds):
			t.Errorf("it goes on for %s", lawHolds)
		}
	})
}
