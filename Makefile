# sovmesh: run `make` to see the targets.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 3000x
SEED    ?= 1
RUNS    ?= 1
STATICCHECK ?= v0.8.2
# NVML needs cgo, and nothing else does: names and users are looked up in Go.
CGO     ?= $(if $(shell command -v $(CC) 2>/dev/null),1,0)
TAGS    := netgo,osusergo
# The NVML binding marks its own older functions as deprecated.
export CGO_CFLAGS ?= -g -O2 -Wno-deprecated-declarations

.DEFAULT_GOAL := help
.PHONY: help demo test check bench lint golden soak build static deps fuzz

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## fetch the Go modules and, on Debian or Ubuntu as root, what the tests need of the machine
	$(GO) mod download
	./deploy/deps.sh

build: ## put the programs into bin/; with a C compiler sovmesh sees NVIDIA devices
	@mkdir -p bin
	CGO_ENABLED=$(CGO) $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/ ./cli/sovmesh
	@# The auditor's program needs no library of any machine.
	@if [ -d cli/sovmesh-verify ]; then CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cli/sovmesh-verify; fi
	@# The first program of micro-VMs; the node finds it beside itself.
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '-s -w' -o bin/sovmesh-init ./node/driver/microvm/init
	@[ $(CGO) = 1 ] || echo 'no C compiler: this sovmesh is static and answers "no NVML" everywhere'

static: ## the same without any library of the machine, for images; sees no NVIDIA devices
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cli/...
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '-s -w' -o bin/sovmesh-init ./node/driver/microvm/init

demo: build ## three regions on loopback, a tour that checks what it sees
	./bin/sovmesh demo

check: ## the fast part of test: vet, formatting, unit and mesh tests
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'gofmt would change:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) test -short -timeout 7m ./...

test: deps build ## everything: vet, fuzzing, race detector, whole meshes, real processes
	./deploy/test.sh

fuzz: ## every fuzz target for FUZZTIME each
	./deploy/fuzz.sh $(FUZZTIME)

bench: build ## the table of speed and size, to bench.txt and bench.json
	$(GO) run ./scenarios/bench

lint: ## vet and staticcheck, which is fetched at its version and is no dependency
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK) ./...

golden: ## rewrite expected output; read the diff
	$(GO) test ./... -run 'Golden|Imports|Scripts' -update

soak: ## random faults: make soak SEED=n RUNS=20
	SOVMESH_SEED=$(SEED) SOVMESH_RUNS=$(RUNS) $(GO) test ./scenarios/mesh -run TestSoak -count=1 -timeout 60m -v
