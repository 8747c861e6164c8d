package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxAuth bounds the file of credentials, in bytes.
const maxAuth = 1 << 20

// accounts are credentials by registry, in the form of Docker's config.json.
type accounts map[string]authn.AuthConfig

// readAccounts reads the operator's credentials anew each time, so that a changed
// file needs no restart.
func readAccounts(file string) (accounts, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the credentials of registries: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAuth+1))
	if err != nil {
		return nil, fmt.Errorf("read the credentials of registries: %w", err)
	}
	return parseAccounts(data)
}

// parseAccounts never quotes what it reads.
func parseAccounts(data []byte) (accounts, error) {
	if len(data) > maxAuth {
		return nil, fmt.Errorf("the credentials of registries are larger than %d bytes", maxAuth)
	}
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
	}
	if json.Unmarshal(data, &file) != nil {
		return nil, errors.New("the credentials of registries are no JSON of the form {\"auths\": {...}}")
	}
	all := make(accounts)
	for host, a := range file.Auths {
		c := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
		if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return nil, fmt.Errorf("the credentials for %q are not the base64 of user:password", host)
			}
			c.Username, c.Password = user, password
		}
		host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		all[host] = c
	}
	return all, nil
}

// Resolve gives the credentials for a registry, or none.
func (a accounts) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if c, ok := a[r.RegistryStr()]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}
