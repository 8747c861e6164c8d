package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// The exit codes of whoever verifies evidence.
const (
	ExitHolds  = 0 // every verdict holds
	ExitBad    = 1 // the evidence does not hold, or nobody says whose it is
	ExitMisuse = 2 // nothing was judged: no file, no such file, no policy in the policy file
)

// Misuse says that nothing could be judged.
type Misuse struct {
	What, Help string
}

func (e *Misuse) Error() string { return e.What }

// Hint says what to do.
func (e *Misuse) Hint() string { return e.Help }

// Request is what an auditor asks of a program.
type Request struct {
	Policy string   // the name of the policy file; empty for none
	Files  []string // names of packs and receipts
	// Open opens a file by its name.
	Open func(name string) (io.ReadCloser, error)
	JSON bool // print one JSON document
	Options
}

// ReadPolicy reads the policy file; nil if there is none. Its errors are of
// type [Misuse].
func (q *Request) ReadPolicy() (*ledger.Policy, error) {
	file := q.Policy
	if file == "" {
		return nil, nil
	}
	f, err := q.Open(file)
	if err != nil {
		return nil, &Misuse{err.Error(), "give the policy that you hold of the mesh, with --policy FILE"}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, ledger.MaxPolicy+1))
	if err != nil {
		return nil, &Misuse{err.Error(), "check the policy file"}
	}
	policy, err := ledger.ParsePolicy(data)
	if err != nil {
		help := "get the policy again from the operator, and compare it by another way"
		var wrong *ledger.PolicyError
		if errors.As(err, &wrong) {
			help = wrong.Hint()
		}
		return nil, &Misuse{fmt.Sprintf("%s is no policy: %v", file, err), help}
	}
	return policy, nil
}

// Run judges the files and prints what was found. It gives the exit code; an
// error says why nothing was judged.
func (q *Request) Run(w io.Writer) (exit int, err error) {
	reports, err := q.Reports()
	if err != nil {
		return ExitMisuse, err
	}
	exit = ExitHolds
	for _, r := range reports {
		if !r.OK() {
			exit = ExitBad
		}
	}
	if q.JSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return exit, e.Encode(struct {
			OK      bool      `json:"ok"`
			Reports []*Report `json:"reports"`
		}{exit == ExitHolds, reports})
	}
	return exit, WriteText(w, reports)
}

// Page judges the files and tells what they say, of one job if one is named,
// with the duties of some regimes. Its errors are of type [Misuse].
func (q *Request) Page(job string, regimes []string) (*Page, error) {
	p := &Page{Account: &Account{Job: job}}
	told := *q
	told.Leaf, told.Opening = p.Account.Leaf, p.Account.Opening
	a, err := told.judged()
	if err != nil {
		return nil, err
	}
	p.Reports = a.Reports()
	p.Account.Close(a.packs)
	if len(regimes) > 0 {
		p.Duties = Duties(regimes...)
	}
	return p, nil
}

// Reports reads and judges the files. Its errors are of type [Misuse].
func (q *Request) Reports() ([]*Report, error) {
	a, err := q.judged()
	if err != nil {
		return nil, err
	}
	return a.Reports(), nil
}

func (q *Request) judged() (*Auditor, error) {
	if len(q.Files) == 0 {
		return nil, &Misuse{"no evidence was given", "name one or more packs or receipts"}
	}
	policy, err := q.ReadPolicy()
	if err != nil {
		return nil, err
	}
	o := q.Options
	o.Several = len(q.Files) > 1
	a := NewAuditor(policy, o)
	for _, name := range q.Files {
		if err := q.read(a, name); err != nil {
			return nil, &Misuse{err.Error(), "check the path, and that you may read it"}
		}
	}
	return a, nil
}

func (q *Request) read(a *Auditor, name string) error {
	f, err := q.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.Read(name, f)
}
