package residency

import (
	"fmt"
	"strconv"
)

// Error says why a tag, a sites file, a date or a law pack cannot be read.
// Nothing was evaluated when a caller receives one.
type Error struct {
	Code    string // tag.syntax, input.sites, law.pack and so on
	Message string // what is wrong, with the offending word
	Help    string // what to type instead
	Line    int    // 1-based; 0 when the input has no lines
	Column  int    // 1-based byte of the short form, or the position handed in with a [Value]; 0 when unknown
}

// Error says what and where.
func (e *Error) Error() string {
	switch {
	case e.Line > 0 && e.Column > 0:
		return fmt.Sprintf("%s (line %d, column %d)", e.Message, e.Line, e.Column)
	case e.Line > 0:
		return fmt.Sprintf("%s (line %d)", e.Message, e.Line)
	case e.Column > 0:
		return fmt.Sprintf("%s (column %d)", e.Message, e.Column)
	}
	return e.Message
}

// Hint says what to type.
func (e *Error) Hint() string { return e.Help }

// Warning is a remark that changes neither verdict nor exit code.
type Warning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
}

// String is the message alone.
func (w Warning) String() string { return w.Message }

// quote shows a word of unknown origin: escaped, and cut so that an error
// never carries a whole hostile input.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
