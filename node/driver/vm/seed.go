//go:build linux

package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/kdomanski/iso9660"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/node/userdata"
)

// seed is the disk by which cloud-init learns what the guest is to be: the
// NoCloud source, an ISO 9660 file system with the label "cidata". Without
// user-data there is still one: its instance-id tells the guest who it is.
// https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
func seed(s runner.Spec) ([]byte, error) {
	if err := userdata.Check(s.Setup.CloudInit); err != nil {
		return nil, refuse(s, "correct cloud_init; it begins with #cloud-config or #!", "its cloud_init is not usable: %v", err)
	}
	if err := userdata.CheckYAML(s.Setup.CloudNetwork); err != nil {
		return nil, refuse(s, "correct cloud_network", "its cloud_network is not usable: %v", err)
	}
	w, err := iso9660.NewWriter()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Cleanup() }()
	user := s.Setup.CloudInit
	if user == "" {
		user = "#cloud-config\n{}\n"
	}
	err = errors.Join(
		w.AddFile(strings.NewReader(user), "user-data"),
		w.AddFile(bytes.NewReader(metaData(s)), "meta-data"),
	)
	if s.SecretsDir != "" || s.InputsDir != "" || s.Setup.Network.HostLines() != "" {
		err = errors.Join(err, w.AddFile(strings.NewReader(bootHook(s)), "vendor-data"))
	}
	if s.Setup.CloudNetwork != "" {
		err = errors.Join(err, w.AddFile(strings.NewReader(s.Setup.CloudNetwork), "network-config"))
	}
	var image bytes.Buffer
	if err = errors.Join(err, w.WriteTo(&image, "cidata")); err != nil {
		return nil, fmt.Errorf("make the seed: %w", err)
	}
	return image.Bytes(), nil
}

// metaData names the instance by the copy of the job, so that a guest does not
// take itself for a new one when it is started again on a disk that was kept, or
// goes on on another node. JSON is YAML.
func metaData(s runner.Spec) []byte {
	id := place(s.Task)
	ordinal, _, _ := s.Task.Member()
	data, _ := json.Marshal(map[string]string{"instance-id": id, "local-hostname": hostname(s.Name, ordinal)})
	return append(data, '\n')
}

var notHost = regexp.MustCompile(`[^a-z0-9]+`)

// hostname makes a name of RFC 1123 of the job's.
func hostname(job string, ordinal int) string {
	name := strings.Trim(notHost.ReplaceAllString(strings.ToLower(job), "-"), "-")
	if name == "" {
		name = "vm"
	}
	return fmt.Sprintf("%.50s-%d", name, ordinal)
}

// writeSeed puts the seed where the machine's user can read it.
func writeSeed(path string, image []byte) error { return os.WriteFile(path, image, 0o400) }
