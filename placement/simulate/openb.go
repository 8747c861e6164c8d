package simulate

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Bounds on what is read: a trace beyond them is not one of these.
const (
	machinesMax  = 100_000
	jobsMax      = 1_000_000
	gpusMax      = 32        // of one machine, and of one job
	modelsMax    = 255       // different models of a cluster
	cpuMax       = 1 << 30   // milli cores of one machine or job
	memoryMax    = 1 << 31   // MiB of one machine or job
	fieldMax     = 1 << 10   // bytes of one field
	traceFileMax = 256 << 20 // bytes, unpacked
)

// Machine is one node of a trace.
type Machine struct {
	Name      string
	CPU       int64 // milli cores
	MemoryMiB int64
	GPUs      int
	Model     string
	// Region is its place, by the rule of [Place].
	Region int
}

// Job is one task of a trace, and what it asks for.
type Job struct {
	Name      string
	CPU       int64 // milli cores
	MemoryMiB int64
	GPUs      int
	Milli     int // of each GPU, in thousandths; 0 without GPUs
	Models    []string
	// Bound says which regions it may run in, by the rule of [Place].
	Bound
}

// amount is the GPU demand in thousandths.
func (j *Job) amount() int64 { return int64(j.GPUs) * int64(j.Milli) }

// FormatError is a trace that cannot be read, with the place of the fault.
type FormatError struct {
	File         string
	Line, Column int // from 1; the column in bytes, 0 for the whole line
	Message      string
	Help         string
}

func (e *FormatError) Error() string {
	switch {
	case e.Line == 0:
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	case e.Column == 0:
		return fmt.Sprintf("%s: line %d: %s", e.File, e.Line, e.Message)
	}
	return fmt.Sprintf("%s: line %d, column %d: %s", e.File, e.Line, e.Column, e.Message)
}

// Hint says what to do.
func (e *FormatError) Hint() string { return e.Help }

const formatHelp = "the file must be a CSV file of the openb trace, as it is or gzip-compressed"

// table reads one CSV file with a head, field by field.
type table struct {
	file   string
	csv    *csv.Reader
	column map[string]int
	row    []string
	line   int
}

// openTable reads the head; needed columns must be there, further ones are
// not looked at.
func openTable(r io.Reader, file string, needed ...string) (*table, error) {
	plain, err := unpack(r)
	if err != nil {
		return nil, &FormatError{File: file, Message: err.Error(), Help: formatHelp}
	}
	t := &table{file: file, csv: csv.NewReader(&bounded{r: plain, left: traceFileMax}), column: make(map[string]int)}
	t.csv.ReuseRecord = true
	head, err := t.csv.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &FormatError{File: file, Message: "the file is empty", Help: formatHelp}
		}
		return nil, t.broken(err)
	}
	for i, name := range head {
		name = strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))
		if _, twice := t.column[name]; twice {
			return nil, t.faultAt(i, "there are two columns named %q", name)
		}
		t.column[name] = i
	}
	for _, name := range needed {
		if _, ok := t.column[name]; !ok {
			return nil, &FormatError{File: file, Line: 1, Message: fmt.Sprintf("there is no column %q", name), Help: "the columns needed are: " + strings.Join(needed, ", ")}
		}
	}
	return t, nil
}

// unpack reads gzip or what is not gzip.
func unpack(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, _ := b.Peek(2); len(magic) < 2 || magic[0] != 0x1f || magic[1] != 0x8b {
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("the gzip file is damaged: %w", err)
	}
	return z, nil
}

var errTooLong = fmt.Errorf("more than %d MiB unpacked", traceFileMax>>20)

// bounded refuses to read on beyond its bound.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// broken is a fault below the level of fields.
func (t *table) broken(err error) error {
	var parse *csv.ParseError
	switch {
	case errors.As(err, &parse):
		return &FormatError{File: t.file, Line: parse.Line, Column: parse.Column, Message: parse.Err.Error(), Help: "each line needs as many fields as the first one"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return &FormatError{File: t.file, Line: t.line + 1, Message: "the gzip file ends early or is damaged: " + err.Error(), Help: "fetch the file again"}
	}
	return &FormatError{File: t.file, Line: t.line + 1, Message: err.Error(), Help: formatHelp}
}

// next goes to the next line; false at the end of the file.
func (t *table) next() (bool, error) {
	row, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, t.broken(err)
	}
	t.row = row
	t.line, _ = t.csv.FieldPos(0)
	return true, nil
}

// text is a field; a column that the file does not have is empty throughout.
func (t *table) text(name string) string {
	i, ok := t.column[name]
	if !ok {
		return ""
	}
	return t.row[i]
}

// fault is a fault in the named field of the current line.
func (t *table) fault(name, format string, args ...any) error {
	return t.faultAt(t.column[name], format, args...)
}

func (t *table) faultAt(field int, format string, args ...any) error {
	line, column := t.csv.FieldPos(field)
	return &FormatError{File: t.file, Line: line, Column: column, Message: fmt.Sprintf(format, args...), Help: "correct the line or leave it out"}
}

// number reads a whole number between least and most.
func (t *table) number(name string, least, most int64) (int64, error) {
	word := strings.TrimSpace(t.text(name))
	if word == "" {
		return 0, t.fault(name, "%s is missing", name)
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		// Some tools write whole numbers as 1000.0.
		whole, tail, dotted := strings.Cut(word, ".")
		if n, err = strconv.ParseInt(whole, 10, 64); err != nil || !dotted || strings.Trim(tail, "0") != "" {
			return 0, t.fault(name, "%s is %q, which is no whole number", name, clip(word))
		}
	}
	if n < least || n > most {
		return 0, t.fault(name, "%s is %d; it must lie between %d and %d", name, n, least, most)
	}
	return n, nil
}

// name reads a name that no line before had.
func (t *table) name(column string, seen map[string]int) (string, error) {
	word := strings.TrimSpace(t.text(column))
	switch line, twice := seen[word]; {
	case word == "":
		return "", t.fault(column, "%s is missing", column)
	case len(word) > fieldMax:
		return "", t.fault(column, "%s has %d bytes, at most %d are read", column, len(word), fieldMax)
	case strings.ContainsFunc(word, func(r rune) bool { return r < ' ' }):
		return "", t.fault(column, "%s %q holds a control character", column, clip(word))
	case twice:
		return "", t.fault(column, "%s %q stands on line %d already", column, clip(word), line)
	}
	seen[word] = t.line
	return word, nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// ReadMachines reads a list of nodes: sn, cpu_milli, memory_mib, gpu, model. They
// come back sorted by name. file is its name, for errors.
func ReadMachines(r io.Reader, file string) ([]Machine, error) {
	t, err := openTable(r, file, "sn", "cpu_milli", "memory_mib", "gpu", "model")
	if err != nil {
		return nil, err
	}
	var out []Machine
	seen, models := make(map[string]int), make(map[string]bool)
	for {
		more, err := t.next()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		m, err := t.machine(seen)
		if err != nil {
			return nil, err
		}
		if len(out) == machinesMax {
			return nil, t.fault("sn", "there are more than %d nodes", machinesMax)
		}
		if models[m.Model] = true; len(models) > modelsMax {
			return nil, t.fault("model", "there are more than %d models", modelsMax)
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		return nil, &FormatError{File: file, Message: "the file lists no nodes", Help: formatHelp}
	}
	slices.SortFunc(out, func(a, b Machine) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (t *table) machine(seen map[string]int) (Machine, error) {
	var m Machine
	var err error
	if m.Name, err = t.name("sn", seen); err != nil {
		return m, err
	}
	if m.CPU, err = t.number("cpu_milli", 0, cpuMax); err != nil {
		return m, err
	}
	if m.MemoryMiB, err = t.number("memory_mib", 0, memoryMax); err != nil {
		return m, err
	}
	gpus, err := t.number("gpu", 0, gpusMax)
	if err != nil {
		return m, err
	}
	m.GPUs, m.Model = int(gpus), strings.TrimSpace(t.text("model"))
	if m.GPUs > 0 && m.Model == "" {
		return m, t.fault("model", "model is missing, but there are %d GPUs", m.GPUs)
	}
	if len(m.Model) > fieldMax || strings.Contains(m.Model, "|") {
		return m, t.fault("model", "model %q is no name of one model", clip(m.Model))
	}
	if m.GPUs == 0 {
		m.Model = ""
	}
	return m, nil
}

// ReadJobs reads a list of tasks: name, cpu_milli, memory_mib, num_gpu,
// gpu_milli, and gpu_spec if there is such a column; those of times and states
// are not looked at. They come back sorted by name. A model that no machine has is an error, unless unknown
// ones are allowed: then such a job finds no place, ever.
func ReadJobs(r io.Reader, file string, machines []Machine, unknownModels bool) ([]Job, error) {
	t, err := openTable(r, file, "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
	if err != nil {
		return nil, err
	}
	models := make(map[string]bool)
	for _, m := range machines {
		models[m.Model] = true
	}
	var out []Job
	seen := make(map[string]int)
	for {
		more, err := t.next()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		j, err := t.job(seen, models, unknownModels)
		if err != nil {
			return nil, err
		}
		if len(out) == jobsMax {
			return nil, t.fault("name", "there are more than %d jobs", jobsMax)
		}
		out = append(out, j)
	}
	if len(out) == 0 {
		return nil, &FormatError{File: file, Message: "the file lists no jobs", Help: formatHelp}
	}
	slices.SortFunc(out, func(a, b Job) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (t *table) job(seen map[string]int, models map[string]bool, unknownModels bool) (Job, error) {
	var j Job
	var err error
	if j.Name, err = t.name("name", seen); err != nil {
		return j, err
	}
	if j.CPU, err = t.number("cpu_milli", 0, cpuMax); err != nil {
		return j, err
	}
	if j.MemoryMiB, err = t.number("memory_mib", 0, memoryMax); err != nil {
		return j, err
	}
	gpus, err := t.number("num_gpu", 0, gpusMax)
	if err != nil || gpus == 0 {
		return j, err // what gpu_milli says means nothing without a GPU
	}
	milli, err := t.number("gpu_milli", 1, 1000)
	if err != nil {
		return j, err
	}
	if gpus > 1 && milli < 1000 {
		return j, t.fault("gpu_milli", "gpu_milli is %d for %d GPUs; a share is of one GPU", milli, gpus)
	}
	j.GPUs, j.Milli = int(gpus), int(milli)
	return j, t.spec(&j, models, unknownModels)
}

// spec reads the models that will do, joined by |; none means any.
func (t *table) spec(j *Job, models map[string]bool, unknownModels bool) error {
	text := strings.TrimSpace(t.text("gpu_spec"))
	if text == "" {
		return nil
	}
	if len(text) > fieldMax {
		return t.fault("gpu_spec", "gpu_spec has %d bytes, at most %d are read", len(text), fieldMax)
	}
	for word := range strings.SplitSeq(text, "|") {
		word = strings.TrimSpace(word)
		switch {
		case word == "":
			return t.fault("gpu_spec", "gpu_spec %q names an empty model", clip(text))
		case !models[word] && !unknownModels:
			return t.fault("gpu_spec", "no node has the model %q", clip(word))
		case !slices.Contains(j.Models, word):
			j.Models = append(j.Models, word)
		}
	}
	slices.Sort(j.Models)
	return nil
}
