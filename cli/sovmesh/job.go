package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

func (p *program) jobCommands() *cli.Command {
	return group("job", "submit jobs and follow them", p.jobRun(), p.jobCheck(), p.jobList(), p.jobShow(), p.jobExplain(), p.jobLogs(), p.jobOutputs(), p.jobStop(),
		p.jobExec(), p.jobConsole(), p.jobConnect(), p.jobPause(), p.jobResume(), p.jobIsolation(), p.jobDrift(), p.jobSnapshot())
}

const jobIDText = "ID is a job's id, or the beginning of it as far as it is unique."

// readJob reads a job file, "-" being standard input. A tag given with
// --residency is used in the place of the file's own.
func (p *program) readJob(c *cli.Context, path string) (*api.JobFile, error) {
	on := residency.DateOf(p.now())
	o := api.JobOptions{Pack: residency.Embedded(), On: on, Secret: readSecret}
	if c.IsSet("residency") {
		wire, err := p.wireTag(c.String("residency"))
		if err != nil {
			return nil, err
		}
		o.Residency = wire
	}
	var data []byte
	var err error
	if path == "-" {
		data, err = readAll(p.in, "standard input", api.MaxJobBytes)
	} else {
		data, err = readBounded(path, api.MaxJobBytes)
	}
	if err != nil {
		return nil, err
	}
	job, err := api.ReadJob(data, o)
	if err != nil {
		return nil, err
	}
	for _, w := range job.Warnings {
		p.warn(w.String())
	}
	return job, nil
}

// readSecret reads a secret on the machine of whoever submits the job.
func readSecret(how, where string) (string, error) {
	if how == "env" {
		value, ok := os.LookupEnv(where)
		if !ok {
			return "", fmt.Errorf("the variable %s is not set", quoteWord(where))
		}
		return value, nil
	}
	data, err := readBounded(where, 64<<10)
	return string(data), err
}

// writeJob shows one job to people.
func (p *program) writeJob(w io.Writer, j *placement.Job) {
	p.facts(w, "id", string(j.ID), "name", j.Name, "kind", string(j.Kind)+" "+string(j.Spec.Type), "residency", j.Residency,
		"status", string(j.Status), "reason", j.Reason, "region", string(j.Region), "node", string(j.Node),
		"exit code", exitText(j.ExitCode), "tenant", string(j.Tenant), "entered at", string(j.EntryRegion),
		"submitted", stamp(j.SubmittedAt), "started", stamp(j.StartedAt), "ended", stamp(j.EndedAt), "receipt", j.Receipt)
}

func exitText(code *int) string {
	if code == nil {
		return ""
	}
	return strconv.Itoa(*code)
}

// stamp writes an instant in UTC, nothing for one that has not come.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// since writes how long ago something was, in one unit.
func (p *program) since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return short(p.now().Sub(t))
}

func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}
