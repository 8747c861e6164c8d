package scenarios

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// tools are the words of scripts beside sovmesh and what every machine has.
var tools = map[string]func(args []string) int{"await": await, "field": field, "http": request}

const awaitWithin = time.Minute

// exitAwaited ends an await that waited in vain: the script has failed, also
// where its output is being rewritten.
const exitAwaited = 99

// await FILE waits until a file is there; await PATTERN COMMAND... runs the
// command again and again until what it prints matches, and prints that.
func await(args []string) int {
	if len(args) == 0 {
		return fault(2, errors.New("await FILE, or await PATTERN COMMAND..."))
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	if err != nil {
		return fault(2, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last []byte
	for end := time.Now().Add(awaitWithin); time.Now().Before(end); <-tick.C {
		if len(args) == 1 {
			if _, err := os.Stat(args[0]); err == nil {
				return 0
			}
			continue
		}
		if last, _ = exec.Command(args[1], args[2:]...).CombinedOutput(); pattern.Match(last) {
			_, _ = os.Stdout.Write(last)
			return 0
		}
	}
	return fault(exitAwaited, fmt.Errorf("not within %s: %s\n%s", awaitWithin, strings.Join(args, " "), last))
}

// field NAME... prints fields of the JSON document on standard input; a.b and
// a.0 reach below.
func field(args []string) int {
	var doc any
	if err := json.NewDecoder(os.Stdin).Decode(&doc); err != nil {
		return fault(1, fmt.Errorf("field: %w", err))
	}
	for _, path := range args {
		v := doc
		for _, key := range strings.Split(path, ".") {
			switch in := v.(type) {
			case map[string]any:
				v = in[key]
			case []any:
				var i int
				if _, err := fmt.Sscan(key, &i); err != nil || i >= len(in) {
					return fault(1, fmt.Errorf("field: nothing at %s", path))
				}
				v = in[i]
			default:
				return fault(1, fmt.Errorf("field: nothing at %s", path))
			}
		}
		if text, ok := v.(string); ok {
			fmt.Println(text)
			continue
		}
		text, _ := json.Marshal(v) // it came from JSON
		fmt.Println(string(text))
	}
	return 0
}

// request is http REGION METHOD PATH ['Header: value']... [BODY]: one request
// to the first node of a region of ready.json (or of the file in $READY), with
// that region's token unless an Authorization header is given. BODY may be
// @FILE. It prints the status, the headers that tell a client what to do, and
// the body.
func request(args []string) int {
	if len(args) < 3 {
		return fault(2, errors.New("http REGION METHOD PATH [HEADER]... [BODY]"))
	}
	base, token, client, err := reach(args[0])
	if err != nil {
		return fault(1, err)
	}
	header := http.Header{"Authorization": {"Bearer " + token}}
	var body []byte
	for _, a := range args[3:] {
		if k, v, ok := strings.Cut(a, ": "); ok && !strings.ContainsAny(k, " {\"@\n") {
			header.Set(k, v)
			continue
		}
		body = []byte(a)
		if path, ok := strings.CutPrefix(a, "@"); ok {
			if body, err = os.ReadFile(path); err != nil {
				return fault(1, err)
			}
		}
	}
	r, err := http.NewRequest(args[1], base+args[2], bytes.NewReader(body))
	if err != nil {
		return fault(2, err)
	}
	r.Header = header
	answer, err := client.Do(r)
	if err != nil {
		return fault(1, err)
	}
	defer answer.Body.Close()
	fmt.Printf("HTTP %s\n", answer.Status)
	for _, k := range []string{"Content-Type", "Retry-After", "X-Should-Retry"} {
		if v := answer.Header.Get(k); v != "" {
			fmt.Printf("%s: %s\n", strings.ToLower(k), v)
		}
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return fault(1, err)
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, text, "", "  ") == nil {
		text = pretty.Bytes()
	}
	fmt.Printf("\n%s\n", bytes.TrimRight(text, "\n"))
	return 0
}

// reach reads how a region is reached.
func reach(region string) (base, token string, client *http.Client, err error) {
	path := os.Getenv("READY")
	if path == "" {
		path = "ready.json"
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", "", nil, err
	}
	var ready struct {
		Regions []struct {
			Name, Token, CA string
			Nodes           []struct{ API string }
		}
	}
	if err := json.Unmarshal(data, &ready); err != nil {
		return "", "", nil, err
	}
	for _, r := range ready.Regions {
		if r.Name != region {
			continue
		}
		pem, err := os.ReadFile(r.CA)
		if err != nil {
			return "", "", nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, ExpectContinueTimeout: 5 * time.Second}
		return r.Nodes[0].API, r.Token, &http.Client{Transport: transport, Timeout: awaitWithin}, nil
	}
	return "", "", nil, fmt.Errorf("%s names no region %s", path, region)
}

func fault(exit int, err error) int {
	fmt.Fprintln(os.Stderr, err)
	return exit
}
