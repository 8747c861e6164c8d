package agents

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// Two regions of separate processes, one in France and one in the US. A job for
// the EU is given to our client while it points at the US node: no byte of its
// body goes there, and it lands in France. A client that pushes its body at the
// US node anyway is refused, and nothing of it is found there.
func TestProcesses_bodyNeverEntersAWrongRegion(t *testing.T) {
	w := newWorld(t)
	fr, us := found(t, w, "fra-1", "FR", 1), found(t, w, "iad-1", "US", 1)
	if err := w.Federate(within(t, startLimit), us, fr); err != nil {
		t.Fatal(err)
	}
	t.Run("our client sends no body byte and lands it", func(t *testing.T) { landsElsewhere(t, w, fr, us) })
	t.Run("a body that is pushed anyway leaves nothing behind", func(t *testing.T) { pushedAnyway(t, fr, us) })
}

func landsElsewhere(t *testing.T, w *World, fr, us *Region) {
	const marker = "secret-of-a-european"
	node := us.Agents[0]
	rec := record(t, us, node)
	file := shell(t, "for-the-eu", "EU", "echo done", map[string]any{"env": map[string]string{"PAYLOAD": strings.Repeat(marker, 500)}})
	env := []string{"SOVMESH_ADDR=" + rec.API, "SOVMESH_TOKEN=" + us.Token, "SOVMESH_CA=" + rec.CA}
	res, err := w.Command(within(t, startLimit), env, string(file), "job", "run", "-", "--wait", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var job placement.Job
	if res.Exit != 0 || json.Unmarshal([]byte(res.Stdout), &job) != nil {
		t.Fatalf("job run: exit %d\n%s\n%s", res.Exit, res.Stdout, res.Stderr)
	}
	if job.Region != placement.RegionID(fr.Name) || job.Status != placement.JobComplete {
		t.Errorf("the job is %s in %q, want complete in %s", job.Status, job.Region, fr.Name)
	}
	all, requests, bodies := rec.said(t)
	if bodies != 0 || strings.Contains(all, marker) {
		t.Errorf("%d body bytes of submits went to the US node; the marker among them: %v", bodies, strings.Contains(all, marker))
	}
	if !slices.Contains(requests, "POST "+api.Prefix+"/grants") {
		t.Errorf("home was not asked for a grant; the requests: %q", requests)
	}
	if found := contains(t, filepath.Dir(node.Data), marker); len(found) > 0 {
		t.Errorf("the marker is on the US node's disk: %q", found)
	}
	if there, err := clientOf(t, fr, fr.Agents[0]).Job(t.Context(), job.ID); err != nil || there.Origin != placement.RegionID(us.Name) {
		t.Errorf("the job in France: %+v, %v", there, err)
	}
}

func pushedAnyway(t *testing.T, fr, us *Region) {
	const marker = "pushed-without-asking"
	node := us.Agents[0]
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(us.CA)
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no CA of the US region", err)
	}
	conn, err := tls.Dial("tcp", node.Addr, &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	body := shell(t, "pushed", "EU", "echo "+marker, map[string]any{"env": map[string]string{"PAYLOAD": strings.Repeat(marker, 30000)}})
	pushed := make(chan error, 1)
	go func() {
		_, err := fmt.Fprintf(conn, "POST %s/jobs HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s: EU\r\nContent-Length: %d\r\n\r\n%s",
			api.Prefix, node.Addr, us.Token, api.HeaderResidency, len(body), body)
		pushed <- err
	}()
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("no answer to a pushed body: %v", err)
	}
	var problem api.Problem
	if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusMisdirectedRequest || problem.Code != api.CodeMisdirected || !res.Close {
		t.Errorf("answered %d %s, close %v; want 421 %s and the connection closed", res.StatusCode, problem.Code, res.Close, api.CodeMisdirected)
	}
	if len(problem.Doors) == 0 || problem.Doors[0].Region != placement.RegionID(fr.Name) {
		t.Errorf("the refusal names the doors %+v, want %s's", problem.Doors, fr.Name)
	}
	if n, err := io.Copy(io.Discard, in); n != 0 {
		t.Errorf("%d more bytes came, %v", n, err)
	}
	_ = conn.Close()
	<-pushed

	jobs, err := clientOf(t, us, node).Jobs(t.Context(), api.ListOptions{})
	if err != nil || slices.ContainsFunc(jobs.Items, func(j placement.Job) bool { return j.Name == "pushed" }) {
		t.Errorf("the US node lists the pushed job, or fails: %v", err)
	}
	if err := node.Stop(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}
	if found := contains(t, filepath.Dir(node.Data), marker); len(found) > 0 {
		t.Errorf("the marker is in %q", found)
	}
}
