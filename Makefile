# `make` lists the targets. The work is done by e2e/*.sh.
SHELL := /bin/bash
.DEFAULT_GOAL := help

##@ Try it
demo: ## a cluster on a real Kubernetes: written to, its leader killed, scaled (KUBECONFIG, or a local one)
	@e2e/demo.sh
demo-down: ## remove what `make demo` made
	@e2e/demo-down.sh

##@ Work on it
verify: ## formatting, lints, generated files, scripts, charts, dependencies, the site; writes nothing
	@e2e/test.sh verify
deny: ## licences, sources and bans of dependencies alone; compiles cargo-deny where it is not to be had
	@e2e/deny.sh
fix: ## format, and write the generated files again
	cargo fmt --all
	cargo run --quiet --profile ci -p operator -- crds --dir .
unit: ## unit and integration tests
	@e2e/test.sh unit
clients: ## clients made for rqlite, the console in a browser, the shell in a terminal, run against members
	@e2e/test.sh tools clients
e2e: ## end-to-end tests (E2E_TESTS=part of a name, KEEP=1 keeps their namespaces)
	@e2e/test.sh tools e2e
test: ## all of the above that only checks: what CI runs
	@e2e/test.sh tools verify unit clients e2e
prove: ## the same tests with the full counts (WHAT=node, or part of an end-to-end test's name); writes docs/measurements*.md
	@e2e/prove.sh $(WHAT)
scale: ## one operator with many clusters whose nodes and members are played: memory, requests, latency, start (CLUSTERS=1000); writes docs/measurements.md
	@e2e/scale.sh $(or $(CLUSTERS),1000)

fuzz: ## what comes from outside, made up by libFuzzer (TARGET=auth|database|log|peer|request|sql, SECONDS=600 each); docs/security.md
	@e2e/fuzz.sh run "$(or $(TARGET),all)" "$(or $(SECONDS),600)"
bench: ## sqlited beside etcd, hiqlite and others on this machine (PEERS, REPS, CLIENTS, SECONDS_EACH, QUICK=1, AGAIN=1); writes docs/performance.md
	@bench/compare.sh
docs: ## the documentation as a site, into target/docs
	@e2e/docs.sh

##@ Images
image: ## one image for each program, optimised, into target/images (IMAGE_REGISTRY names them for a registry)
	cargo build --release -p node -p operator --bins
	@e2e/image.sh release version

##@ A Kubernetes on this machine
kube-up: ## start it, with what it needs (NODES=3)
	@e2e/kube/kube-up.sh
kube-env: ## what a shell needs to use it, for eval
	@e2e/kube/kube-env.sh
kube-down: ## end it and delete what is in it
	@e2e/kube/kube-down.sh

help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo demo-down verify deny fix unit clients e2e test prove scale fuzz bench docs image kube-up kube-env kube-down help
