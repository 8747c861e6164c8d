package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// bulkSize is what one round of the benchmarks below carries, in bytes.
const bulkSize = 64 << 20

// zeros reads as many zeros as it says.
type zeros int64

func (z *zeros) Read(p []byte) (int, error) {
	if *z <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), int64(*z))
	*z -= zeros(n)
	return int(n), nil
}

// What a move's streams carry over loopback: the bytes of one request, the same in
// several requests at once over the one connection, and TLS over TCP beside it.
func BenchmarkBulk(b *testing.B) {
	for _, streams := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("http3 streams=%d", streams), func(b *testing.B) {
			from, to := loopback(b)
			to.ServeH3(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 128<<10))
			}))
			b.SetBytes(bulkSize)
			for b.Loop() {
				var all sync.WaitGroup
				for range streams {
					all.Go(func() {
						z := zeros(bulkSize / streams)
						req, err := http.NewRequest(http.MethodPost, "https://peer/", &z)
						if err == nil {
							var res *http.Response
							if res, err = from.Do(context.Background(), Peer{ID: to.id, Addr: to.addr}, summary, req); err == nil {
								_ = res.Body.Close()
							}
						}
						if err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
			}
		})
	}
	b.Run("tls over tcp", bulkTLS)
}

func bulkTLS(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetBytes(bulkSize)
	for b.Loop() {
		taken := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 128<<10))
				_ = c.Close()
			}
			taken <- err
		}()
		raw, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // #nosec G402: a benchmark's own other end
		z := zeros(bulkSize)
		_, err = io.CopyBuffer(struct{ io.Writer }{c}, &z, make([]byte, 128<<10))
		_ = c.Close()
		if err := <-taken; err != nil {
			b.Fatal(err)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
