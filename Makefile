# The interface of the project: `make help` lists it. Each target does its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
SIMULATED ?= 4
REAL ?= 0

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the main job on a fresh machine: cluster, operator, samples, and a picture of who has which card
	@e2e/demo/run

demo-down: ## end the demo: its operator and its cluster
	@e2e/demo/end

up: ## a cluster to play with: make up SIMULATED=4 REAL=0
	@e2e/cluster/up $(SIMULATED) $(REAL)

down: ## take it down
	@e2e/cluster/down

test: ## all tests that CI runs, on a cluster of their own
	@e2e/test

lint: ## format, clippy, shell scripts
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	@e2e/lint-scripts

image: ## the container image, by docker, podman or buildah: make image IMAGE=NAME:TAG
	@image/build $(IMAGE)

render: ## write what config/ has from the chart (needs helm)
	@config/render

e2e-full: ## what takes long: the least-privilege audit over all stories, and the installation on real nodes
	@TENURE_AUDIT=1 e2e/test
	@e2e/install/run

crds: ## write crds/ from the types
	cargo run --quiet -- crds --output-dir crds

catalogue: ## write config/samples/catalogue from the price list in tests/it/data
	TENURE_WRITE_CATALOGUE=1 cargo test --quiet --test it -- catalogue::

check: lint ## all that CI runs: lint, generated files up to date, tests
	@cargo run --quiet -- crds --output-dir crds && git diff --exit-code -- crds || (echo "crds/ was out of date: commit what make crds wrote" >&2; exit 1)
	@e2e/test

bench: ## the figures of docs/performance.md (takes a while; not a test)
	@e2e/bench/run

.PHONY: help demo demo-down up down test image render e2e-full lint crds catalogue check bench
