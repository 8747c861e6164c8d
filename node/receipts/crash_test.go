package receipts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
)

// The environment of a process that answers until it is killed.
const envCrash = "SOVMESH_TEST_RECEIPTS_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envCrash); dir != "" {
		answerForever(dir)
	}
	os.Exit(m.Run())
}

// answerForever prints the id of each answer once it is promised.
func answerForever(dir string) {
	f, err := os.OpenFile(filepath.Join(dir, "ledger"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	cfg := config(filepath.Join(dir, "receipts"), &aLog{to: f})
	cfg.Every = 50 * time.Millisecond
	k, err := New(cfg)
	if err != nil {
		panic(err)
	}
	go func() { panic(k.Run(context.Background())) }()
	for i := 0; ; i++ {
		id, err := tryAnswer(k, i, receipt.Evidence(i%2))
		if err != nil {
			panic(err)
		}
		fmt.Println(id)
	}
}

func TestKilledBetweenAnswerAndCommit(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envCrash+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if ids = append(ids, lines.Text()); len(ids) == 300 {
			if err := cmd.Process.Kill(); err != nil { // SIGKILL
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the process ended by itself")
	}
	log := openLog(t, filepath.Join(dir, "ledger"))
	before, _, _, _ := log.sums()
	if before >= uint64(len(ids)) {
		t.Fatalf("all %d were committed before the kill: nothing is tested", before)
	}
	k, _ := start(t, config(filepath.Join(dir, "receipts"), log))
	until(t, "the tail is recovered", func() bool { return k.Chain() != "" })
	whole(t, log.segments())
	if _, _, missing, recovered := log.sums(); recovered == 0 || missing != 0 {
		t.Errorf("%d segments are recovered, %d receipts missing: a killed process loses none", recovered, missing)
	}
	for _, id := range ids {
		f, err := k.Find(id)
		if err != nil {
			t.Fatalf("%s was promised, and the answer is %v", id, err)
		}
		verify(t, f, log.segments())
	}
}

// crashed leaves a keeper's files as a crash before the next commit would.
func crashed(t *testing.T, n int) (dir string, log *aLog, ids []string) {
	t.Helper()
	dir, log = t.TempDir(), &aLog{}
	cfg := config(dir, log)
	k, stop := start(t, cfg)
	answer(t, k, 0, receipt.Required)
	until(t, "one is committed", func() bool { c, _, _, _ := log.sums(); return c == 1 })
	log.fail(errors.New("no leader"))
	for i := range n {
		ids = append(ids, answer(t, k, i+1, receipt.Required))
	}
	stop()
	log.fail(nil)
	return dir, log, ids
}

func TestWhatAPowerCutTookIsMissing(t *testing.T) {
	dir, log, ids := crashed(t, 20)
	// The last file loses its end, as if it had not reached the disk.
	files, err := listFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	last := filepath.Join(dir, fileName(files[len(files)-1]))
	data, _ := os.ReadFile(last)
	if err := os.Truncate(last, int64(len(data))-300); err != nil {
		t.Fatal(err)
	}
	k, _ := start(t, config(dir, log))
	until(t, "the tail is recovered", func() bool { return k.Chain() != "" })
	whole(t, log.segments())
	states := map[receipt.State]int{}
	for _, id := range ids {
		f, err := k.Find(id)
		if err != nil {
			t.Fatalf("%s was promised, and the answer is %v", id, err)
		}
		states[f.State]++
	}
	if states[receipt.Missing] == 0 || states[receipt.Missing]+states[receipt.Committed] != len(ids) {
		t.Errorf("the receipts are %v: those cut off are to be missing, the others committed", states)
	}
}

func TestADamagedRecordIsMissingAndItsNeighboursAreNot(t *testing.T) {
	dir, log, ids := crashed(t, 1)
	id, err := receipt.ParseID(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fileName(id.Seq))
	data, _ := os.ReadFile(path)
	data[len(header(0))+60] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	k, _ := start(t, config(dir, log))
	until(t, "the chain goes on", func() bool { return k.Chain() != "" })
	if _, _, missing, _ := log.sums(); missing == 0 {
		t.Error("a receipt that was promised cannot be read, and the ledger says nothing of it")
	}
	if f, err := k.Find(ids[0]); err != nil || f.State != receipt.Missing {
		t.Errorf("the damaged receipt is %+v, %v", f, err)
	}
}

func TestALostFileAndALostDirectoryShow(t *testing.T) {
	for name, lose := range map[string]func(dir string, seq uint64) error{
		"directory": func(dir string, _ uint64) error { return os.RemoveAll(dir) },
		"file":      func(dir string, seq uint64) error { return os.Remove(filepath.Join(dir, fileName(seq))) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, log, ids := crashed(t, 3)
			id, _ := receipt.ParseID(ids[0])
			if err := lose(dir, id.Seq); err != nil {
				t.Fatal(err)
			}
			k, stop := start(t, config(dir, log))
			until(t, "the chain goes on", func() bool { return k.Chain() != "" })
			whole(t, log.segments())
			_, _, missing, _ := log.sums()
			if name == "directory" && missing == 0 {
				t.Error("receipts were lost with their directory, and the ledger says nothing")
			}
			stop()
			n := len(log.segments())
			again, _ := start(t, config(dir, log))
			until(t, "the chain goes on", func() bool { return again.Chain() != "" })
			if len(log.segments()) != n {
				t.Error("a second start says it again")
			}
			next := answer(t, again, 9, receipt.Required)
			for _, old := range ids {
				if name == "file" && next == old {
					t.Errorf("the id %s was given twice", old)
				}
			}
		})
	}
}

func TestAFullDisk(t *testing.T) {
	log := &aLog{}
	dir := t.TempDir()
	cfg := config(dir, log)
	cfg.Every = time.Hour
	k, _ := start(t, cfg)
	kept := answer(t, k, 0, receipt.Required)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full: ", err)
	}
	defer full.Close()
	k.mu.Lock()
	real := k.cur.file
	k.cur.file = full
	k.mu.Unlock()
	var busy *Busy
	if _, err := tryAnswer(k, 1, receipt.Required); !errors.As(err, &busy) || !strings.Contains(busy.Why, "disk") || busy.RetryAfter <= 0 {
		t.Errorf("required evidence on a full disk gives %v", err)
	}
	if _, err := tryAnswer(k, 2, receipt.BestEffort); !errors.Is(err, ErrDropped) {
		t.Errorf("best effort on a full disk gives %v", err)
	}
	k.mu.Lock()
	k.cur.file = real
	k.mu.Unlock()
	if f, err := k.Find(kept); err != nil || f.State != receipt.Promised {
		t.Errorf("what was kept before is %+v, %v", f, err)
	}
	answer(t, k, 3, receipt.Required)
	k.rotate(nil)
	until(t, "two receipts and a drop are in the ledger", func() bool {
		count, dropped, _, _ := log.sums()
		return count == 2 && dropped == 1
	})
}
