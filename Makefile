# Requires Rust, make and Python 3 with pip. Everything else is downloaded to .dev/.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help servers demo dev test test-field test-field-long test-edge test-gateway test-python test-containers sim fleet chaos chaos-sites chaos-more flood resume-proof bench check-deploy \
	observe fuzz fmt lint lint-features

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

servers: ## download the pinned nats-server and S3 server to .dev/
	@$(PYTHON) deploy/dev/servers.py

demo: ## download 256 MiB from S3 over NATS, compare, report the speed; leaves nothing running
	@$(PYTHON) deploy/dev/demo.py

dev: ## start the demo's servers and relay, and leave them running until Ctrl-C
	@$(PYTHON) deploy/dev/demo.py --stay

test: ## check formatting, lints and documentation, and run all tests against real servers
	@$(PYTHON) deploy/dev/test.py

test-field: ## test with servers and set-ups as in the field, and print a table of them; the tests are part of test
	@$(PYTHON) tests/field/run.py $(ARGS)

test-field-long: ## the same with Ceph radosgw and OpenStack Swift, from Debian's packages
	@$(PYTHON) tests/field/run.py --long $(ARGS)

test-edge: ## kill edge relays, cut their uplinks, damage their caches, and let their upstreams die and lie; needs root
	@$(PYTHON) tests/field/edge_faults.py $(ARGS)
	@$(PYTHON) tests/field/edge_upstreams.py $(ARGS)

test-gateway: ## download with real clients through the gateway, compare it with nginx, and inject 108 faults
	@$(PYTHON) tests/gateway/run.py $(ARGS)
	@$(PYTHON) tests/gateway/nginx.py $(ARGS)
	@$(PYTHON) tests/gateway/faults.py $(ARGS)

test-python: ## the Python client (wheel, types, tests), the consumers of PROTOCOL.md, conformance; ARGS="--chaos --large --conformance" for more
	@$(PYTHON) clients/python/check.py $(ARGS)

SEEDS ?= 100000
sim: ## simulate SEEDS=100000 downloads with faults, or a single SEED=1234 with its log
	@GANTRY_SIM_SEEDS=$(SEEDS) $(if $(SEED),GANTRY_SIM_SEED=$(SEED)) \
		cargo test --locked --test sim -- --nocapture every_world

# For example ARGS=twenty_sites for a part of it; see docs/BENCHMARKS.md. glibc reuses chunks at once if its cache of each
# thread takes them. Otherwise half of the time is spent in searching the heap.
fleet: ## simulate 1,000 sites of 100 devices, with and without edge relays: ten minutes or more, 1 GB of memory
	@GLIBC_TUNABLES=glibc.malloc.tcache_max=131072 cargo test --release -p gantry-proto --locked --test thin_links -- --ignored --nocapture --test-threads 1 $(or $(ARGS),fleet)

# For example ARGS="--seed 7" or ARGS="--plan"; see tests/chaos/run.py.
chaos: ## inject 212 seeded faults during downloads and compare every file
	@$(PYTHON) tests/chaos/run.py $(ARGS)

# For example ARGS="--short" or ARGS="--seed 7 --plan"; see tests/chaos/sites.py.
chaos-sites: ## inject 104 seeded faults between a hub and its sites, with leaf nodes and edge relays
	@$(PYTHON) tests/chaos/sites.py $(ARGS)

chaos-more: ## measure failover, 20 kills during 1 GiB, 10 GiB over a link that keeps failing, and a slow consumer
	@for script in failover kills long slow; do $(PYTHON) tests/chaos/$$script.py $(ARGS) || exit 1; done

# For example ARGS="--gantry target/debug/gantry --rates 100".
flood: ## flood a relay with malformed messages during a download of 200 MB, and kill its connection
	@$(PYTHON) tests/chaos/flood.py $(ARGS)

resume-proof: ## 50 kills, 50 full disks and 50 damaged part files; compare every file and count what was kept
	@$(PYTHON) tests/chaos/resume.py $(ARGS)

bench: ## compare with S3, NATS, the Object Store, s5cmd and aws; ARGS=--quick for a short run, ARGS=--help for options
	@$(PYTHON) benches/run.py $(ARGS)

SECONDS ?= 30
fuzz: ## fuzz everything that peers and files can feed Gantry, SECONDS=30 for each target; FUZZ=name for one
	@$(PYTHON) fuzz/run.py --seconds $(SECONDS) $(if $(FUZZ),--target $(FUZZ))

check-deploy: ## check deploy/ with kubectl, systemd and promtool; part of test
	@$(PYTHON) deploy/dev/check_deploy.py

observe: ## check that a real Prometheus has data for each query of the dashboard
	@$(PYTHON) deploy/dev/observe.py

test-containers: ## test the image and the compose files on a Docker engine, with faults under load
	@$(PYTHON) tests/containers/run.py

fmt: ## format the code
	cargo fmt --all

lint: ## run clippy; warnings are errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

lint-features: ## check the command without the clouds, and with each of them
	for features in "" azure gcs; do \
		cargo clippy --locked -p gantry --lib --bins --no-default-features --features "$$features" -- -D warnings || exit 1; \
	done
