# `make` lists what there is to make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

SERVICES := scripts/services run --two-postgres --fast --
# The binary under test: GOZON_BIN if it is set, otherwise what cargo builds, wherever that is.
BUILT = GOZON_BIN=$${GOZON_BIN:-$$(scripts/build)}; export GOZON_BIN
SIMULATOR := --package gozon-sim --features simulate
# With the features of the whole workspace, cargo builds each library once for all tests.
SIMULATOR_OF_WORKSPACE := --workspace --features gozon-sim/simulate
BENCH_SERVICES := scripts/services run --only postgres,rabbitmq --
TESTS := test-containers test-api test-web test-rust test-simulate test-newest-postgres test-page

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: run
run: compilers web ## Run the whole shop at http://localhost:8080, on embedded defaults
	exec cargo run --release --package gozon -- up

.PHONY: test
test: setup ## Install what is missing and run all tests
	GOZON_BIN=$$(scripts/build --workspace --bins --tests); export GOZON_BIN; $(MAKE) $(TESTS)

.PHONY: setup
setup: ## Install the servers and tools that tests need (as root; otherwise say what to install)
	scripts/setup

# C, C++ and Perl build librdkafka, OpenSSL and SQLite.
.PHONY: compilers
compilers:
	scripts/setup build

.PHONY: test-rust
test-rust: ## Test the services on SQLite, PostgreSQL, RabbitMQ and Kafka
	$(SERVICES) cargo test --workspace --no-fail-fast

.PHONY: test-simulate
test-simulate: ## Simulate 2,000 seeds, and put every mended fault back to see it found
	cargo test $(SIMULATOR_OF_WORKSPACE) --test simulate

.PHONY: simulate
simulate: ## Simulate seeds until stopped or one fails (SEEDS=n, FROM=n, SEED=n with a log, FAULTS=0,3, MUTATION=name)
	cargo run $(SIMULATOR) -- \
		$(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FROM),--from $(FROM)) \
		$(if $(FAULTS),--faults $(FAULTS)) $(if $(MUTATION),--mutation '$(MUTATION)')

.PHONY: simulate-table
simulate-table: ## Print the rows of docs/proof-mutations.md anew
	cargo run $(SIMULATOR) -- --table

.PHONY: test-newest-postgres
test-newest-postgres: setup
	scripts/test-postgres-versions 18.0.0

.PHONY: test-grpc
test-grpc: setup ## Test the whole shop with gRPC between the gateway and the services
	GOZON_TEST_INSIDE=grpc $(SERVICES) cargo test --package gozon --test e2e --no-fail-fast

.PHONY: test-postgres-versions
test-postgres-versions: setup ## Test the store and the messages on PostgreSQL 16, 17 and 18
	scripts/test-postgres-versions

.PHONY: test-api
test-api: api/node_modules/.package-lock.json api/.venv/.installed ## Check the contracts in api/
	$(BUILT); cd api && npm test

api/node_modules/.package-lock.json: api/package.json api/package-lock.json
	cd api && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

api/.venv/.installed: api/requirements.txt
	python3 -m venv api/.venv
	api/.venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

.PHONY: test-containers
test-containers: ## Check the Dockerfiles and compose files, without running them
	scripts/check-containers

.PHONY: compose-test
compose-test: ## Build the images and test the shop in containers (OFFLINE=1, KAFKA=1)
	scripts/compose-test

.PHONY: test-web
test-web: web ## Check the front end and run its unit tests
	cd web && npm run check && npm test

.PHONY: test-page
test-page: web ## Test the front end in a real browser against the real shop
	$(BUILT); cd web && npm run e2e

.PHONY: lint
lint: compilers ## Formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo clippy $(SIMULATOR_OF_WORKSPACE) --lib --bin gozon-sim --test simulate -- --deny warnings

.PHONY: services
services: ## Run throwaway PostgreSQL, RabbitMQ and Kafka servers until Ctrl-C
	scripts/services start --two-postgres

.PHONY: soak
soak: setup ## The long crash, fleet and fault tests (GOZON_SOAK_SECONDS, GOZON_SOAK_RATE, GOZON_TEST_SEED)
	GOZON_SOAK=1 $(SERVICES) cargo test --release --package gozon --test e2e -- --nocapture --test-threads 1 crash:: fleet:: faults::mixed::

.PHONY: web
web: web/dist/index.html ## Build the web front end

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

web/dist/index.html: web/node_modules/.package-lock.json api/openapi.json web/index.html \
		web/vite.config.ts $(shell find web/src web/public -type f 2>/dev/null)
	cd web && npm run build
	touch $@

.PHONY: bench
bench: setup ## Measure limit and system on every setup; two tables, kept in bench/results (three quarters of an hour)
	bench/run

.PHONY: limit
limit: ## Measure what the durable rows of an order cost alone, with and without the rows of its events
	cargo build --release --package gozon --package gozon-bench
	bench/limit sqlite
	scripts/services run --only postgres -- bash -c 'bench/limit "$$GOZON_TEST_POSTGRES_URL"'

.PHONY: sockets
sockets: ## Measure what idle live sockets cost (SOCKETS=50000 SECONDS=600 for the long run, GATEWAYS=3)
	cargo build --release --package gozon
	$(if $(GATEWAYS),$(BENCH_SERVICES)) bench/sockets --sockets $(or $(SOCKETS),10000) \
		--seconds $(or $(SECONDS),20) $(if $(GATEWAYS),--gateways $(GATEWAYS))

.PHONY: restart
restart: ## Measure what clients see of a restart with 5,000 live sockets
	cargo build --release --package gozon
	$(BENCH_SERVICES) bench/restart

.PHONY: microbench
microbench: ## Time the settle core, the store's batches, the envelope and an HTTP request
	cargo bench --package gozon-payments --bench settle
	cargo bench --package gozon-store --bench rows
	cargo bench --package gozon-messaging --bench envelope
	cargo bench --package gozon-gateway --bench place

.PHONY: coverage
coverage: setup ## Line coverage; fails below 85 %
	scripts/coverage

.PHONY: bless
bless: ## Rewrite the snapshots in api/ from the code
	GOZON_BLESS=1 cargo test --package gozon --test openapi
	GOZON_BLESS=1 cargo test --package gozon-orders --package gozon-payments as_published

.PHONY: clean
clean: ## Remove everything built
	cargo clean
	rm -rf web/dist web/node_modules
