package api

import (
	"net/url"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func volume(v residency.Value) (out placement.Volume, err error) {
	err = fields("a volume", "write {name: data, path: /data}", v, []string{"name", "path", "read_only", "shared"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "name":
			out.Name, err = placeName(f, v)
		case "path":
			if out.Path, err = inside(f, v, false); err == nil {
				for _, k := range placement.KernelPlaces() {
					if placement.Within(out.Path, k) {
						return jobError(v, "write another path, such as /data", "a volume cannot lie at %s", quoteWord(out.Path))
					}
				}
			}
		case "read_only":
			out.ReadOnly, err = boolean(f, v)
		case "shared":
			out.Shared, err = boolean(f, v)
		}
		return err
	})
	if err == nil && (out.Name == "" || out.Path == "") {
		err = jobError(v, "write {name: data, path: /data}", "a volume needs a name and a path")
	}
	return out, err
}

const inputHelp = "write inputs: [{name: model.bin, digest: \"sha256:...\", source: https://host/path}]"

// input is a file that is known by what it is, wherever it comes from.
func input(v residency.Value) (out placement.Input, err error) {
	err = fields("an input", inputHelp, v, []string{"name", "digest", "source"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "name":
			if out.Name, err = text(f, v, 64); err == nil && !fileName.MatchString(out.Name) {
				err = jobError(v, "use letters, digits, '.', '-' and '_', and begin with a letter or a digit", "name cannot be %s: it becomes a file's", quoteWord(out.Name))
			}
		case "digest":
			out.Digest, err = digest(f, v)
		case "source":
			if out.Source, err = text(f, v, 2048); err == nil && !plainPath(out.Source) {
				if u, urlErr := url.Parse(out.Source); urlErr != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
					err = jobError(v, "write https://host/path, or an absolute path below the node's image directory", "a source cannot be %s", quoteWord(out.Source))
				}
			}
		}
		return err
	})
	if err == nil && (out.Name == "" || out.Digest == "" || out.Source == "") {
		err = jobError(v, inputHelp, "an input needs a name, a digest and a source")
	}
	return out, err
}

func disk(v residency.Value) (out placement.Disk, err error) {
	err = fields("a disk", "write {name: data, size: 20GiB}", v, []string{"name", "size"}, func(f string, v residency.Value) (err error) {
		if f == "name" {
			out.Name, err = placeName(f, v)
		} else {
			out.Size, err = diskSize(f, v)
		}
		return err
	})
	if err == nil && (out.Name == "" || out.Size == 0) {
		err = jobError(v, "write {name: data, size: 20GiB}", "a disk needs a name and a size")
	}
	return out, err
}

func diskSize(name string, v residency.Value) (placement.Bytes, error) {
	n, err := memory(name, v)
	if err == nil && (n < placement.MiB || n > maxDiskSize) {
		err = jobError(v, "write 1MiB to 64TiB", "%s cannot be %s", name, quoteWord(v.Text))
	}
	return n, err
}
