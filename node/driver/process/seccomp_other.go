//go:build linux && !amd64 && !arm64

package process

import "errors"

// filter does not exist here: nobody wrote down the numbers of these calls.
func filter(bool) error { return errors.ErrUnsupported }
