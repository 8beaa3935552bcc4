# What a person does here. `make` alone lists it.
#
# Build output and tools live in the user's cache directory, so that a clone
# stays small and a second clone builds warm. Override with CARGO_TARGET_DIR.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace
export CARGO_TARGET_DIR ?= $(CACHE)/target
TOOLS := $(CACHE)/tools
DENY_VERSION := 0.20.2
DENY := $(TOOLS)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
BENCH := $(CARGO_TARGET_DIR)/release/millrace-bench

# As with the features of the programs: the engine is built once.
FEATURES := --features millrace-engine/tls

# RocksDB takes a quarter of an hour of two cores to compile, once per machine: what needs
# it has targets of its own, and links one library.
WORKSPACE := --workspace --exclude millrace-rocksdb
ROCKSDB := millrace/rocksdb,millrace/cluster
WITH_ROCKSDB := export ROCKSDB_STATIC=1; ROCKSDB_LIB_DIR="$$(worker/rocksdb/build-deps.sh)"; export ROCKSDB_LIB_DIR;

# Arguments for run, bench and bench-flink, as in: make bench ARGS='--scale 0.1 chain'
ARGS ?=

.PHONY: help
help: ## List what there is to do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build everything, unoptimised
	cargo build $(WORKSPACE) --all-targets

.PHONY: test
test: lint policy doc ## All that CI checks: lint, licences, docs, tests
	cargo test $(WORKSPACE) $(FEATURES)

.PHONY: test-rocksdb
test-rocksdb: ## Lint and tests of the RocksDB tier; compiles RocksDB, once a quarter of an hour
	$(WITH_ROCKSDB) cargo clippy --package millrace-rocksdb --package millrace --all-targets --features $(ROCKSDB) -- -D warnings
	$(WITH_ROCKSDB) cargo test --package millrace-rocksdb --package millrace --features $(ROCKSDB)

.PHONY: lint
lint: ## Formatting and clippy
	cargo fmt --all --check
	cargo clippy $(WORKSPACE) --all-targets $(FEATURES) -- -D warnings

.PHONY: doc
doc: ## API documentation; a warning is an error
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc $(WORKSPACE) --no-deps $(FEATURES)

# Advisories are not part of it: their database is fetched from the network at
# every run, and a build must not turn red for what nobody changed.
.PHONY: policy
policy: $(DENY) ## Licences, sources and versions of dependencies (deny.toml)
	$(DENY) --log-level error check licenses bans sources

.PHONY: deny
deny: $(DENY) ## The same with security advisories and all warnings; needs the network
	$(DENY) check

# Three minutes on two cores, once per version.
$(DENY):
	env -u CARGO_TARGET_DIR cargo install --locked --root $(TOOLS)/cargo-deny-$(DENY_VERSION) cargo-deny@$(DENY_VERSION)

.PHONY: run
run: ## Run the flight-delays example; ARGS='--input FILE --output DIR ...'
	cargo run --package flight-delays -- run $(ARGS)

.PHONY: e2e
e2e: ## Play the stories on a cluster of our own (root; the first time 10 min more); ARGS=names
	MILLRACE_E2E=1 cargo test --package millrace-e2e --test scenarios -- $(ARGS)

.PHONY: image
image: ## OCI archives of the example and the operator, from release binaries; TIER=rocksdb: with that
	$(if $(TIER),$(WITH_ROCKSDB)) cargo build --release --package flight-delays --features "millrace/cluster millrace/s3 $(TIER:%=millrace/%)"
	cargo build --release --package millrace-operator
	e2e/lab/image.sh $(CARGO_TARGET_DIR)/image/flight-delays.tar millrace.dev/examples/flight-delays:0.1.0 $(CARGO_TARGET_DIR)/release/flight-delays
	e2e/lab/image.sh $(CARGO_TARGET_DIR)/image/operator.tar millrace.dev/operator:0.1.0 $(CARGO_TARGET_DIR)/release/millrace-operator

.PHONY: s3-cross-check
s3-cross-check: ## The store contract on MinIO too; ten minutes to build it the first time
	cargo test --package millrace-s3 --test store -- --ignored

.PHONY: crds
crds: ## Write the chart's resource definitions anew from their types
	cargo run --package millrace-crds -- charts/millrace/templates/crds

.PHONY: chaos
chaos: ## Kill the example hundreds of times, in one process and in several, and compare its output
	cargo test --package flight-delays -- --ignored --nocapture

$(BENCH): FORCE
	cargo build --release --package millrace-benches

.PHONY: bench
bench: $(BENCH) ## Each row of the table beside its plain loop; ARGS=row names
	$(BENCH) $(ARGS)

.PHONY: bench-rocksdb
bench-rocksdb: ## The row of state larger than memory, beside bare RocksDB
	$(WITH_ROCKSDB) cargo build --release --package millrace-benches --features rocksdb
	$(BENCH) $(or $(ARGS),spilled)

.PHONY: bench-durable
bench-durable: ## A job with 1 GB of state in S3: checkpoints, recovery, rescale (5 min, and a long build)
	cargo build --release --package millrace-bench-durable
	$(CARGO_TARGET_DIR)/release/millrace-bench-durable $(ARGS)

.PHONY: bench-flink
bench-flink: $(BENCH) ## The rows that Flink can run, ours beside Flink's (10 min, Java 17)
	benches/flink/run.sh | tee $(CACHE)/flink.tsv
	$(BENCH) --flink $(CACHE)/flink.tsv $(or $(ARGS),window-count-1k window-count-1m running-reduce-1m)

.PHONY: FORCE
FORCE:
