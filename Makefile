# Every target says what it needs; `make` alone lists them.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The static build of images/, which the benchmark measures: what users run.
HOST := $(shell uname -m)-unknown-linux-gnu
STATIC := CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUSTFLAGS="-C target-feature=+crt-static"

.PHONY: help demo demo-cluster check test coverage soak bench bench-docs images crds fmt cluster-up cluster-down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## no cluster needed: run examples/quickstart/codexstore.yaml here, use it, look at its bytes on disk
	@tests/setup build curl
	@cargo build --quiet -p codexstore-sidecar -p codexctl
	@tests/demo/local

demo-cluster: ## the quick start on a real cluster: CODEXSTORE_TEST_KUBECONFIG, or one made on this machine (needs root)
	@tests/setup build
	@tests/demo/cluster

check: ## the quick part of the tests: formatting, lints, unit tests
	@tests/run check

test: ## everything, a real cluster included: 60 minutes at most from nothing, 25 after that
	@tests/run test

coverage: ## how much of the store its tests run: fails below 92 percent of the lines, and for each of format, recovery and keys that they miss
	@tests/setup build
	@tests/coverage

soak: ## what depends on chance, over and over, SOAK_MINUTES long (60), and its counters
	@tests/setup build curl proof redis
	@tests/soak

BENCH_FLAGS = --quiet -p codexstore-tests --target $(HOST) --features bench
BENCH_ENV = $(STATIC) CODEXSTORE_SIDECAR=$(CURDIR)/target/$(HOST)/release/codexstore-sidecar

bench: ## store and sidecar against their peers in the same run, as ratios (BENCH=full: all of it); writes target/bench/results.json
	@tests/setup build bench
	@images/build sidecar operator
	@rm -f target/bench/results.json
	@$(BENCH_ENV) BENCH=$(BENCH) cargo bench $(BENCH_FLAGS) --bench sidecar
	@$(BENCH_ENV) BENCH=$(BENCH) cargo bench $(BENCH_FLAGS) --bench store

bench-docs: ## put what was measured last into docs/PERFORMANCE.md, with its plots
	@$(STATIC) cargo bench $(BENCH_FLAGS) --bench store -- --docs

images: ## build sidecar and operator as OCI archives in target/images, without a registry
	@tests/setup build
	@images/build

crds: ## generate crds/ and the chart's copy from the Rust types
	@cargo run --quiet -p codexstore-crds --bin crdgen

fmt: ## format the Rust code
	@cargo fmt --all

cluster-up: ## start the test cluster and print how to use it (needs root)
	@tests/cluster/cluster up

cluster-down: ## stop the test cluster
	@tests/cluster/cluster down

clean: ## remove what was built in the repository; the compiled cluster stays in ~/.cache
	@cargo clean
