package api

import (
	"strings"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of secrets.
const (
	maxSecrets     = 32
	maxSecretBytes = 64 << 10
	maxSecretsAll  = 256 << 10
)

// secrets reads NAME: value, or NAME: {file: PATH} and NAME: {env: VARIABLE}
// where somebody can read those.
func secrets(v residency.Value, read func(how, where string) (string, error)) (map[string]string, error) {
	if v.Kind != residency.Map {
		return nil, jobError(v, "write secrets: {DB_PASSWORD: {file: password.txt}}", "secrets must be a mapping, not %s", v.Kind)
	}
	if len(v.Fields) > maxSecrets {
		return nil, jobError(v, "put several into one", "%d secrets are more than the %d that a job may have", len(v.Fields), maxSecrets)
	}
	out, size := make(map[string]string, len(v.Fields)), 0
	for _, f := range v.Fields {
		at := residency.Value{Line: f.Line, Column: f.Column}
		if !secretName(f.Name) {
			return nil, jobError(at, "use letters, digits, - and _, at most 64", "%s is no name of a secret: it becomes the name of a file", quoteWord(f.Name))
		}
		if _, twice := out[f.Name]; twice {
			return nil, jobError(at, "write every name once", "the secret %s stands here a second time", f.Name)
		}
		value, err := secret(f.Name, f.Value, read)
		if err != nil {
			return nil, err
		}
		if size += len(value); len(value) > maxSecretBytes || size > maxSecretsAll {
			return nil, jobError(f.Value, "hand over a key, and fetch the rest with it", "the secret %s is too large: at most 64 KiB each and 256 KiB together", f.Name)
		}
		out[f.Name] = value
	}
	return out, nil
}

// secret is one value. What is wrong with it is said without it.
func secret(name string, v residency.Value, read func(how, where string) (string, error)) (string, error) {
	if v.Kind != residency.Map {
		if v.Kind != residency.String || v.Text == placement.HiddenSecret {
			return "", jobError(v, "write {file: PATH}, {env: VARIABLE}, or the value in quotes", "the secret %s has no value", name)
		}
		return v.Text, nil
	}
	if len(v.Fields) != 1 || v.Fields[0].Name != "file" && v.Fields[0].Name != "env" || v.Fields[0].Value.Kind != residency.String {
		return "", jobError(v, "write {file: PATH} or {env: VARIABLE}", "where the secret %s comes from cannot be read", name)
	}
	f := v.Fields[0]
	if read == nil {
		return "", jobError(v, "submit the file with: sovmesh job run FILE", "the secret %s is read by the command line, on the machine of whoever submits the job", name)
	}
	value, err := read(f.Name, f.Value.Text)
	if err != nil {
		return "", jobError(f.Value, "correct it, and submit the job again", "the secret %s: %v", name, err)
	}
	return value, nil
}

func secretName(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s != "" && len(s) <= 64 && strings.Trim(s, letters) == ""
}
