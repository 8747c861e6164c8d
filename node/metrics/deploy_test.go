package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	dto "github.com/prometheus/client_model/go"
)

// served is what a scrape shows: metric, label, values.
type served map[string]map[string][]string

func servedBy(families []*dto.MetricFamily) served {
	s := served{}
	for _, f := range families {
		labels := map[string][]string{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		s[f.GetName()] = labels
	}
	return s
}

var (
	selector = regexp.MustCompile(`\b((?:sovmesh|process|go)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`^\s*([a-z_]+)\s*(=~|!=|!~|=)\s*"([^"]*)"\s*$`)
	grouping = regexp.MustCompile(`\b(?:by|on|without|group_left)\s*\(([^)]*)\)`)
)

// problems are what an expression asks for and no scrape shows.
func (s served) problems(expr string) (out []string) {
	var labels []string
	found := false
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		found = true
		has, ok := s[m[1]]
		if !ok {
			out = append(out, "no metric "+m[1])
			continue
		}
		for name := range has {
			labels = append(labels, name)
		}
		for _, part := range strings.Split(m[2], ",") {
			if part == "" {
				continue
			}
			l := matcher.FindStringSubmatch(part)
			switch {
			case l == nil:
				out = append(out, "no matcher: "+part)
			case has[l[1]] == nil:
				out = append(out, m[1]+" has no label "+l[1])
			case l[2] == "=" && !slices.Contains(has[l[1]], l[3]):
				out = append(out, m[1]+" is never shown with "+part)
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, name := range strings.FieldsFunc(g[1], func(r rune) bool { return r == ',' || r == ' ' }) {
			// Prometheus adds instance and job itself.
			if name != "instance" && name != "job" && !slices.Contains(labels, name) {
				out = append(out, "grouped by "+name+", which nothing in it has")
			}
		}
	}
	if !found && !strings.Contains(expr, "up{") {
		out = append(out, "it asks for none of our metrics")
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") {
		out = append(out, "parentheses")
	}
	return out
}

func TestExpressionsThatAskForWhatIsNotServedAreFound(t *testing.T) {
	s := servedBy(gather(t, full(t)))
	for _, expr := range []string{
		"sovmesh_node_happy == 0", `sovmesh_link_up{region="x",speed="y"}`, `sovmesh_consensus_peers{role="king"}`,
		"sum by (tenant) (sovmesh_region_jobs)", "vector(1)", "max((sovmesh_region_jobs)",
	} {
		if s.problems(expr) == nil {
			t.Errorf("nothing is wrong with %s", expr)
		}
	}
}

func TestAlertRulesAskForWhatIsServed(t *testing.T) {
	data, err := os.ReadFile("../../deploy/prometheus/sovmesh.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.UnmarshalWithOptions(data, &rules, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	s := servedBy(gather(t, full(t)))
	seen := map[string]bool{}
	for _, group := range rules.Groups {
		for _, r := range group.Rules {
			for _, p := range s.problems(r.Expr) {
				t.Errorf("%s: %s", r.Alert, p)
			}
			if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Sovmesh") {
				t.Errorf("the name %q is taken, or not ours", r.Alert)
			}
			seen[r.Alert] = true
			if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("%s does not say how bad it is, what it is or what to do", r.Alert)
			}
		}
	}
	if len(seen) < 15 {
		t.Errorf("%d alerts", len(seen))
	}
}

func TestTheDashboardAsksForWhatIsServed(t *testing.T) {
	data, err := os.ReadFile("../../deploy/grafana/sovmesh.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	s := servedBy(gather(t, full(t)))
	for i, p := range board.Panels {
		if p.ID != i+1 || p.Title == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("panel %d %q has no place, number or question", p.ID, p.Title)
		}
		for _, target := range p.Targets {
			for _, problem := range s.problems(target.Expr) {
				t.Errorf("%s: %s", p.Title, problem)
			}
		}
	}
	for _, v := range board.Templating.List {
		if v.Type == "query" && s.problems(v.Query) != nil {
			t.Errorf("variable %s: %v", v.Name, s.problems(v.Query))
		}
	}
	if board.UID == "" || len(board.Panels) == 0 {
		t.Error("the dashboard is empty")
	}
}
