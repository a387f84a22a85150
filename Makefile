BINARY  := mcp-proxy
LDFLAGS := -s -w
LINT    := v2.15.0
SYSTEMS := linux darwin windows
ARCHS   := amd64 arm64
CONFORMANCE := 0.2.0-alpha.12

.PHONY: build test soak-tokens format lint check demo conformance release clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .

test:
	go test -race -count=1 ./...

# A minute of traffic with tokens that live for two seconds, and half a minute
# of waiting for a sign-in. It prints what was counted.
soak-tokens: build
	MCP_PROXY_TEST_TRAFFIC=60s MCP_PROXY_TEST_IDLE=30s MCP_PROXY_TEST_BINARY=$(CURDIR)/$(BINARY) \
		go test -count=1 -v -run='^(TestTokensUnderTraffic|TestWaitingCostsLittle)$$'

format:
	gofmt -w .

lint: .tools/$(LINT)/golangci-lint
	go vet ./...
	.tools/$(LINT)/golangci-lint run

.tools/$(LINT)/golangci-lint:
	GOBIN=$(CURDIR)/.tools/$(LINT) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT)

check: format lint test

# The main job, without any account: a local OAuth-protected server, the real
# binary, a scripted browser.
demo: build
	@mkdir -p dist && go test -c -o dist/demo.test . && MCP_PROXY_TEST_AS=demo dist/demo.test ./$(BINARY)

# The official conformance suite against the built binary; needs npm.
conformance: build .conformance/$(CONFORMANCE)
	MCP_PROXY_CONFORMANCE=.conformance MCP_PROXY_CONFORMANCE_BINARY=./$(BINARY) \
		go test -count=1 -timeout=20m -run='^TestConformance$$'

.conformance/$(CONFORMANCE):
	rm -rf .conformance
	npm install --prefix=.conformance --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
		@modelcontextprotocol/conformance@$(CONFORMANCE)
	touch $@

# Archives for every system, with checksums; the same sources give the same bytes.
release:
	rm -rf dist && mkdir -p dist
	@set -e; for os in $(SYSTEMS); do for arch in $(ARCHS); do \
		name=$(BINARY)-$$os-$$arch; exe=$(BINARY); [ $$os = windows ] && exe=$(BINARY).exe; \
		mkdir -p dist/$$name; cp README.md LICENSE dist/$$name/; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -trimpath -ldflags '$(LDFLAGS) -buildid=' -o dist/$$name/$$exe .; \
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C dist -cf - $$name | gzip -n -9 > dist/$$name.tar.gz; \
		rm -r dist/$$name; echo $$name.tar.gz; \
	done; done
	cd dist && sha256sum *.tar.gz > SHA256SUMS

clean:
	rm -rf $(BINARY) $(BINARY).exe dist .conformance
