package evidence

import (
	_ "embed" // the table of duties
	"encoding/csv"
	"slices"
	"strings"
)

//go:embed duties.csv
var dutiesTable string

// Duty is what a body of rules asks of somebody, and which section of a report
// speaks of it.
type Duty struct {
	Regime, Article, Who, What string
	Section                    string // of the report; "not shown" for none
	Shows                      string
}

// Duties are those of some regimes, all if none is named. They are a reading
// aid and no legal advice.
func Duties(regimes ...string) (out []Duty) {
	rows, err := csv.NewReader(strings.NewReader(dutiesTable)).ReadAll()
	if err != nil {
		panic("the table of duties in this program cannot be read: " + err.Error())
	}
	for _, r := range rows[1:] {
		if len(regimes) == 0 || slices.Contains(regimes, r[0]) {
			out = append(out, Duty{r[0], r[1], r[2], r[3], r[4], r[5]})
		}
	}
	return out
}

// Regimes are the bodies of rules that reports are arranged by.
func Regimes() (out []string) {
	for _, d := range Duties() {
		if !slices.Contains(out, d.Regime) {
			out = append(out, d.Regime)
		}
	}
	return out
}
