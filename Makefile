EXE     := $(shell go env GOEXE)
BINARY  := mcp-proxy$(EXE)
LDFLAGS := -s -w
LINT    := v2.15.0
TARGETS := linux/amd64 linux/arm64 linux/arm darwin/amd64 darwin/arm64 \
	freebsd/amd64 freebsd/arm64 windows/amd64 windows/arm64
CONFORMANCE := 0.2.0-alpha.12
FUZZ := 300000x
CORES := $(or $(shell getconf _NPROCESSORS_ONLN),2)
SOAK := 10m

.PHONY: build test bench fuzz soak soak-tokens format vet lint check demo conformance release release-check clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .

test:
	go test -race -count=1 -parallel=$(shell expr $(CORES) '*' 2) -timeout=30m ./...

# Every parser of bytes that strangers send has a fuzz target; one a core is run
# at a time. What one finds goes to testdata/fuzz, which make test reads. FUZZ is a number
# of runs: when a time is over, internal/fuzz may take its own deadline for a failure
# (it asks the child context, which is cancelled after the parent).
fuzz:
	@mkdir -p dist && go test -c -fuzz=. -o dist/fuzz.test$(EXE) .
	@dist/fuzz.test$(EXE) -test.list='^Fuzz' | xargs -n 1 -P $(CORES) sh -c \
		'out=$$(dist/fuzz.test$(EXE) -test.run="^$$" -test.fuzz="^$$0$$" -test.fuzztime=$(FUZZ) -test.fuzzminimizetime=200x -test.parallel=1 \
			-test.fuzzcachedir=dist/fuzz 2>&1); failed=$$?; echo "$$0"; echo "$$out"; exit $$failed'

# Several processes of the program, most built with the race detector, and servers
# that do all that servers do; SOAK=2m is shorter. It prints a seed, which
# MCP_PROXY_TEST_SEED takes, and what was counted. Linux.
soak: build
	go build -race -o dist/mcp-proxy-race$(EXE) .
	MCP_PROXY_TEST_SOAK=$(SOAK) MCP_PROXY_TEST_BINARY=$(CURDIR)/dist/mcp-proxy-race$(EXE) MCP_PROXY_TEST_PLAIN_BINARY=$(CURDIR)/$(BINARY) \
		go test -race -count=1 -v -timeout=0 -run='^TestSoak$$'

# A minute of traffic with tokens that live for two seconds, and half a minute
# of waiting for a sign-in. It prints what was counted.
soak-tokens: build
	MCP_PROXY_TEST_TRAFFIC=60s MCP_PROXY_TEST_IDLE=30s MCP_PROXY_TEST_BINARY=$(CURDIR)/$(BINARY) \
		go test -count=1 -v -run='^(TestTokensUnderTraffic|TestWaitingCostsLittle)$$'

# What the binary costs beside the smallest pipe there can be: a table, in
# some minutes. QUICK=1 measures fewer rounds.
bench: build
	MCP_PROXY_BENCH=$(if $(QUICK),quick,full) MCP_PROXY_TEST_BINARY=$(CURDIR)/$(BINARY) \
		go test -count=1 -timeout=30m -run='^TestBench$$'

format:
	gofmt -w .

vet:
	go vet ./...
	go vet ./_build/floor ./_build/release

lint: vet .tools/$(LINT)/golangci-lint$(EXE)
	.tools/$(LINT)/golangci-lint$(EXE) run . ./_build/floor ./_build/release

.tools/$(LINT)/golangci-lint$(EXE):
	GOBIN=$(CURDIR)/.tools/$(LINT) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT)

check: format lint test

# The main job, without any account: a local OAuth-protected server, the real
# binary, a scripted browser.
demo:
	@echo 'Compiling the program. The first time this takes up to a minute.'
	@$(MAKE) --no-print-directory -s build
	@echo 'Compiling the servers that it talks to.'
	@mkdir -p dist && go test -c -o dist/demo.test$(EXE) .
	@MCP_PROXY_TEST_AS=demo dist/demo.test$(EXE) ./$(BINARY)

# The official conformance suite against the built binary; needs npm. With
# HOST=2025-11-25 it is the scenarios of 2026-07-28 with a host of that revision.
conformance: build .conformance/$(CONFORMANCE)
	MCP_PROXY_CONFORMANCE=.conformance MCP_PROXY_CONFORMANCE_BINARY=./$(BINARY) MCP_PROXY_CONFORMANCE_HOST=$(HOST) \
		go test -count=1 -timeout=20m -run='^TestConformance$$'

.conformance/$(CONFORMANCE):
	rm -rf .conformance
	npm install --prefix=.conformance --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
		@modelcontextprotocol/conformance@$(CONFORMANCE)
	touch $@

# Archives and bundles for every system, the source, what package managers read, and
# checksums: the same on every machine that has the same version of Go, see
# _build/release. VERSION, if given, must be HEAD's tag. The tool is compiled as what it
# compiles is, so that they share the standard library.
release:
	CGO_ENABLED=0 GOAMD64=v1 go run -trimpath ./_build/release -version '$(VERSION)' $(TARGETS)

# Releases the last commit twice, in two folders, and compares the bytes.
release-check:
	MCP_PROXY_RELEASE_TARGETS='$(TARGETS)' go test -count=1 -timeout=30m ./_build/release

clean:
	rm -rf mcp-proxy mcp-proxy.exe dist .conformance
