package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobSnapshot() *cli.Command {
	return &cli.Command{
		Name: "snapshot", Usage: "copy the state of a job's task without ending it", ArgsUsage: "ID",
		Description: jobIDText + `
Whoever may end the job may do this; the region's ledger has who, which task and
when before anything is done, and the name of a snapshot.

--name keeps a copy of the disks of a running virtual machine on its node, all of
one instant: those of a service, and those of disks:. File systems are held still
for that instant where the guest has an agent. Up to 8 are kept, as long as the
disks are. --list shows them, --remove removes one. --restore sets the disks back
to one: the machine is reset at once, as by its button, and begins anew on them;
what was written since is lost. Snapshots go along when the machine is moved.

--forensic copies everything to --out. The directory is made, and must not be there
before. manifest.json names every file with its SHA-256, and what could not be
had; the hash of manifest.json itself stands in the ledger. It stays in the
region of whoever asks.`,
		UsageText: "sovmesh job snapshot fra-1.01jd --name before-upgrade\nsovmesh job snapshot fra-1.01jd --restore before-upgrade\nsovmesh job snapshot fra-1.01jd --forensic --out evidence/",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "keep the disks as they are now as `NAME`: up to 40 small letters, digits and hyphens"},
			&cli.BoolFlag{Name: "list", Usage: "the snapshots of its disks"},
			&cli.StringFlag{Name: "restore", Usage: "set the disks back to `NAME` and begin anew on them"},
			&cli.StringFlag{Name: "remove", Usage: "remove the snapshot `NAME`"},
			&cli.BoolFlag{Name: "forensic", Usage: "disk, memory where it can, console and records, for an investigation"},
			&cli.StringFlag{Name: "out", Usage: "`DIR` to write a forensic snapshot to"},
		}, connectionFlags()...),
		Action: p.snapshotJob,
	}
}

func (p *program) snapshotJob(c *cli.Context) error {
	args, err := arguments(c, "ID")
	if err != nil {
		return err
	}
	ways := 0
	for _, flag := range []string{"name", "list", "restore", "remove", "forensic"} {
		if c.IsSet(flag) {
			ways++
		}
	}
	if ways != 1 || c.Bool("forensic") != (c.String("out") != "") {
		return usage("write sovmesh job snapshot ID --name NAME, or --list, --restore NAME, --remove NAME, or --forensic --out DIR", "a snapshot is either named or forensic: one of these is done at a time")
	}
	if c.Bool("forensic") {
		return p.forensicSnapshot(c, placement.JobID(args[0]))
	}
	return p.diskSnapshot(c, placement.JobID(args[0]))
}

// diskSnapshot does one thing with the named snapshots of a job's disks.
func (p *program) diskSnapshot(c *cli.Context, id placement.JobID) error {
	for _, flag := range []string{"name", "restore", "remove"} {
		if c.IsSet(flag) && !placement.ValidDiskSnapshotName(c.String(flag)) {
			return usage(fmt.Sprintf("write up to %d small letters, digits and hyphens", placement.DiskSnapshotMaxName), "a snapshot cannot be called %q", clean(c.String(flag)))
		}
	}
	client, _, err := p.writer(c)
	if err != nil {
		return err
	}
	defer client.Close()
	var all *api.DiskSnapshots
	switch {
	case c.IsSet("name"):
		all, err = client.TakeDiskSnapshot(c.Context, id, c.String("name"))
	case c.IsSet("restore"):
		all, err = client.RestoreDiskSnapshot(c.Context, id, c.String("restore"))
	case c.IsSet("remove"):
		all, err = client.RemoveDiskSnapshot(c.Context, id, c.String("remove"))
	default:
		all, err = client.DiskSnapshots(c.Context, id)
	}
	if err != nil {
		return err
	}
	return p.show(all, func(w io.Writer) { p.writeDiskSnapshots(w, all, c.IsSet("restore")) })
}

func (p *program) writeDiskSnapshots(w io.Writer, all *api.DiskSnapshots, restored bool) {
	p.facts(w, "job", string(all.Job), "task", string(all.Task))
	if s := all.Snapshot; s != nil {
		p.facts(w, word(restored, "set back to", "kept as"), s.Name)
	}
	fmt.Fprintln(w)
	if len(all.Snapshots) == 0 {
		fmt.Fprintln(w, "Its disks have no snapshots.")
		return
	}
	t := p.table("SNAPSHOT", "OF", "DISKS", "BYTES", "FILE SYSTEMS")
	for _, s := range all.Snapshots {
		state := "frozen"
		if !s.Frozen {
			state = "as after a power cut: " + clean(s.Why)
		}
		t.add(s.Name, stamp(s.At), strings.Join(s.Disks, " "), strconv.FormatInt(s.Bytes, 10), state)
	}
	t.write(w)
}

// forensicSnapshot copies the whole state of a job's task into a new directory.
func (p *program) forensicSnapshot(c *cli.Context, id placement.JobID) error {
	client, _, err := p.writer(c)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := os.Mkdir(c.String("out"), 0o700); err != nil {
		return inputFile(err, "name a directory that is not there yet, in one that is")
	}
	m, err := client.Snapshot(c.Context, id, c.String("out"))
	if err != nil {
		_ = os.Remove(c.String("out")) // stays if something is in it
		return err
	}
	return p.show(m, func(w io.Writer) {
		p.facts(w, "job", string(m.Job), "task", string(m.Task), "at", m.At.UTC().Format(time.RFC3339), "stood still for", m.Paused)
		fmt.Fprintln(w)
		t := p.table("FILE", "WHAT", "BYTES", "SHA-256")
		for _, part := range m.Parts {
			t.add(part.Name, part.What, strconv.FormatInt(part.Size, 10), part.SHA256)
		}
		t.write(w)
		for _, missing := range m.Missing {
			fmt.Fprintln(w, "missing:", clean(missing))
		}
	})
}
