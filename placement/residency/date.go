package residency

import (
	"math"
	"time"
)

// Date is a UTC calendar day, counted from 1970-01-01. Law is dated by days:
// nothing in this package knows a time of day.
type Date int32

// A row of the law with no first or no last day reaches to these.
const (
	always  Date = math.MinInt32
	forever Date = math.MaxInt32
)

// ParseDate reads YYYY-MM-DD and refuses days that no calendar has. Its error
// carries the code input.date.
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || len(s) != len(time.DateOnly) {
		return 0, &Error{Code: "input.date", Message: quote(s) + " is not a day", Help: "write a real day as YYYY-MM-DD, for example 2026-11-21"}
	}
	return DateOf(t), nil
}

// DateOf is the UTC day that t falls on.
func DateOf(t time.Time) Date {
	sec := t.Unix()
	day := sec / 86400
	if sec%86400 < 0 {
		day--
	}
	return Date(day)
}

// String writes the day as YYYY-MM-DD.
func (d Date) String() string {
	return time.Unix(int64(d)*86400, 0).UTC().Format(time.DateOnly)
}

// MarshalText lets a day stand in JSON as YYYY-MM-DD.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [Date.MarshalText] writes.
func (d *Date) UnmarshalText(b []byte) error {
	v, err := ParseDate(string(b))
	if err == nil {
		*d = v
	}
	return err
}

// span is half open: it holds on day D when from <= D < to.
type span struct{ from, to Date }

func (s span) holds(d Date) bool { return s.from <= d && d < s.to }
