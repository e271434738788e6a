# Symbolon. `make demo` runs two clusters on this machine, `make test` everything that must pass; both do all set-up.

.PHONY: help demo test check tools build bench fmt interop mutants

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

demo: build ## two clusters, real Envoys, one ramp, on this machine (HEADLESS=1: a line per event; ARGS="--fault crash")
	@target/debug/symbolon demo $(if $(HEADLESS),--headless) $(ARGS)

test: tools ## everything that must pass, with the minutes of each suite (SUITES="unit demo": only these)
	@tests/tools/prerequisites go node
	@tests/tools/install softhsm2
	@cargo fetch --locked --quiet
	@tests/tools/suites $(SUITES)

check: ## the quick loop: format, lints, unit tests
	@tests/tools/prerequisites cargo cc
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --exclude symbolon-tests --all-targets

tools: ## the pinned tools and peers, into target/tools
	@tests/tools/prerequisites cargo python3 cc go
	@tests/tools/install envoy cargo-deny spiffe go

interop: tools ## what other SPIFFE implementations make of ours: renews the table of docs/interop.md
	SYMBOLON_BLESS=1 cargo test --workspace --all-targets -- --nocapture interop::matrix

mutants: ## which change of the verifiers and parsers no test notices; hours (PARTS="ids svid": only these)
	@tests/tools/prerequisites cargo python3 cc
	@tests/tools/install cargo-mutants
	@tests/tools/mutants $(PARTS)

bench: ## speed, of a release build: one table, and target/bench/summary.json (ARGS="issuance": only that part)
	@tests/tools/prerequisites cargo cc
	cargo run --locked --release --quiet --package symbolon-tests --bin bench -- $(ARGS)

build: tools ## the programs, as demo, scenarios and tests use them
	cargo build --locked --workspace --all-targets

fmt: ## format everything
	cargo fmt --all
