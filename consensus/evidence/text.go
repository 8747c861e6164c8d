package evidence

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// WriteText prints reports for people: the verdicts, each by itself with what
// led to it, then what was read, then what the evidence cannot show, and at the
// end one line that sums up.
func WriteText(w io.Writer, reports []*Report) error {
	p := &printer{w: w}
	for i, r := range reports {
		if i > 0 {
			p.line("")
		}
		p.report(r)
	}
	bad := 0
	for _, r := range reports {
		if !r.OK() {
			bad++
		}
	}
	p.line("")
	switch {
	case bad == 0 && len(reports) == 1:
		p.line("result: the evidence holds")
	case bad == 0:
		p.line("result: the evidence holds, in all %d files", len(reports))
	default:
		p.line("result: THE EVIDENCE DOES NOT HOLD, in %d of %d files", bad, len(reports))
	}
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

// line prints one, without anything that would steer a terminal.
func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, printable(fmt.Sprintf(format, args...)))
	}
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

func (p *printer) report(r *Report) {
	name := r.File
	if name == "" {
		name = "evidence"
	}
	head := name + ": " + r.Kind
	if r.Mesh != "" {
		head += " of mesh " + r.Mesh
	}
	if r.ExportedBy != "" {
		head += fmt.Sprintf(", exported by %s at %s (its own word)", r.ExportedBy, stamp(r.ExportedAt))
	}
	p.line("%s", head)
	if r.SHA256 != "" {
		p.line("  %s %s", r.hashed(), r.SHA256)
	}
	for i := range r.Verdicts {
		p.verdict(&r.Verdicts[i])
	}
	if r.Receipt != nil {
		p.receipt(r.Receipt)
	}
	for i := range r.Regions {
		p.region(&r.Regions[i], r.Kind)
	}
	p.line("  not shown, whatever the verdicts:")
	for _, s := range r.NotShownHere {
		p.line("    - %s", s)
	}
}

// hashed says of what the SHA-256 is: of a pack's manifest, which holds those of
// all its other files, and not of the file that the pack came in.
func (r *Report) hashed() string {
	if r.Kind == KindPack {
		return "sha256 of its MANIFEST"
	}
	return "sha256"
}

func (p *printer) verdict(v *Verdict) {
	state := v.State
	switch {
	case v.State == Fails:
		state = "FAILS"
	case v.State == NotShown && v.Aside:
		state = "beyond it"
	}
	p.line("  %-13s %-9s  %s", v.Name, state, v.Says)
	for i, f := range v.Findings {
		if i > 0 || f != v.Says {
			p.line("  %-13s %-9s  %s", "", "", f)
		}
	}
	if v.More > 0 {
		p.line("  %-13s %-9s  and %d more", "", "", v.More)
	}
}

// receipt prints what the receipt of a request says.
func (p *printer) receipt(r *InferenceReceipt) {
	p.line("  receipt %s: %s", r.ID, r.State)
	if r.Node != "" {
		p.line("    signed by %s, asked for at %s", r.Node, when(r.At))
	}
	if s := r.Says; s != nil {
		p.line("    request %s for model %s: %s %d, %s to %s", s.RequestID, s.Model, s.Outcome, s.Status, when(s.Start), when(s.End))
		p.line("    tag %s, in region %s, evidence %s", s.Tag, s.Region, s.Evidence)
		if s.Continues != "" {
			p.line("    continues %s", s.Continues)
		}
		if s.Peer != "" {
			p.line("    the other region's receipt is %s", s.Peer)
		}
	}
	if r.Next != "" {
		p.line("    continued by %s", r.Next)
	}
}

func (p *printer) region(r *RegionReport, kind string) {
	leaves := fmt.Sprintf("leaves %d to %d", r.First, max(r.End, r.First+1)-1)
	if kind != KindPack {
		leaves = plural(r.Leaves, "leaf")
	}
	p.line("  region %s: %s of %s, %s to %s", r.Name, leaves, r.Origin, when(r.FirstAt), when(r.LastAt))
	if len(r.Witnesses) > 0 {
		p.line("    witnessed by %s by %s, at size %d", strings.Join(r.Witnesses, ", "), when(r.Witnessed), r.Size)
	}
	if r.Apart > 0 {
		p.line("    cosignatures around a leaf lie at most %s apart: within that its time is the region's word", time.Duration(r.Apart)*time.Second)
	}
	p.line("    %s, %s repeated, %s", plural(uint64(r.Placements), "placement"), plural(uint64(r.Judgements), "decision"), plural(uint64(r.Refusals), "refusal"))
	if b := r.Begun; b != nil {
		p.line("    BEGUN by a recovery at %s, in the place of %s, of which %s are vouched for: export them by themselves", when(b.At), nonEmpty(b.Origin, "a log that it does not quote"), plural(b.Quoted, "leaf"))
	}
	if e := r.Ended; e != nil {
		p.line("    ENDED by a recovery at %s, after %s that the next log vouches for; it goes on as %s", when(e.At), plural(e.Quoted, "leaf"), e.Origin)
	}
	if r.Openings+r.Erased > 0 {
		p.line("    %s checked against their leaves; erased: %d", plural(uint64(r.Openings), "opening"), r.Erased)
	}
	if r.Segments > 0 {
		p.line("    %s of inference receipts: %d requests, %d without a receipt, %d MISSING%s", plural(uint64(r.Segments), "segment"), r.Requests, r.Dropped, r.Missing, receiptsHere(r, kind))
	}
}

// receiptsHere says which receipts a pack has; the file of one has that one.
func receiptsHere(r *RegionReport, kind string) string {
	switch {
	case kind != KindPack:
		return ""
	case r.Absent == 0:
		return "; " + plural(uint64(r.Receipts), "receipt") + " here"
	}
	return fmt.Sprintf("; %s here, of %s none", plural(uint64(r.Receipts), "receipt"), plural(r.Absent, "segment"))
}

func nonEmpty(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func when(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return stamp(t)
}
