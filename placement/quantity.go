package placement

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// MilliCPU is processor time in thousandths of a core. It is written "500m"
// or "2" (cores) in job files and JSON.
type MilliCPU int64

// Bytes is an amount of memory or storage in bytes. It is written with a
// binary or decimal unit ("256MiB", "40GiB", "1GB") or as a plain number.
type Bytes int64

// Units of [Bytes].
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// ParseCPU reads "500m", "2", "0.5" or "1500m". A quantity below one
// thousandth of a core, negative or above a million cores is refused.
func ParseCPU(s string) (MilliCPU, error) {
	text, milli := strings.CutSuffix(strings.TrimSpace(s), "m")
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%q is no amount of processor: write cores (2, 0.5) or thousandths (500m)", s)
	}
	if !milli {
		n *= 1000
	}
	if n < 0 || n > 1e9 || n != math.Trunc(n) {
		return 0, fmt.Errorf("%q is no amount of processor: it must lie between 0 and 1000000 cores, in whole thousandths", s)
	}
	return MilliCPU(n), nil
}

func (c MilliCPU) String() string {
	if c%1000 == 0 {
		return strconv.FormatInt(int64(c/1000), 10)
	}
	return strconv.FormatInt(int64(c), 10) + "m"
}

// MarshalJSON writes the quantity as a string.
func (c MilliCPU) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// UnmarshalJSON reads a string or a number of cores.
func (c *MilliCPU) UnmarshalJSON(data []byte) error {
	n, err := ParseCPU(strings.Trim(string(data), `"`))
	if err == nil {
		*c = n
	}
	return err
}

// byteUnits is ordered so that a longer suffix is tried before a shorter one.
var byteUnits = []struct {
	suffix string
	size   Bytes
}{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3},
	{"Ti", TiB}, {"Gi", GiB}, {"Mi", MiB}, {"Ki", KiB}, {"B", 1}, {"", 1},
}

// ParseBytes reads "256MiB", "40GiB", "1.5GB" or a plain number of bytes.
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSpace(s)
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil {
			break
		}
		n *= float64(u.size)
		if math.IsNaN(n) || n < 0 || n > 1<<60 {
			return 0, fmt.Errorf("%q is no amount of memory: it must lie between 0 and 1 EiB", s)
		}
		return Bytes(n), nil
	}
	return 0, fmt.Errorf("%q is no amount of memory: write a number and a unit, as in 256MiB or 40GiB", s)
}

func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if b >= u.size && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalJSON writes the quantity as a string.
func (b Bytes) MarshalJSON() ([]byte, error) { return json.Marshal(b.String()) }

// UnmarshalJSON reads a string or a number of bytes.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	n, err := ParseBytes(strings.Trim(string(data), `"`))
	if err == nil {
		*b = n
	}
	return err
}
