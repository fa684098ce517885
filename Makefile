# Needs Rust, make and Python 3 with pip. What else is needed is fetched into .dev/.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help servers demo dev test test-python test-containers sim chaos chaos-more bench check-deploy observe fmt lint

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

servers: ## get the pinned nats-server and S3 server into .dev/
	@$(PYTHON) deploy/dev/servers.py

demo: ## download 256 MiB from S3 over NATS, compare, say how fast; leaves nothing running
	@$(PYTHON) deploy/dev/demo.py

dev: ## start the demo's servers and relay, and leave them running until Ctrl-C
	@$(PYTHON) deploy/dev/demo.py --stay

test: ## formatting, lints, documentation and every test, against real servers
	@$(PYTHON) deploy/dev/test.py

test-python: ## the Python client (wheel, types, tests) and the bare consumers; ARGS="--chaos --large" for more
	@$(PYTHON) clients/python/check.py $(ARGS)

SEEDS ?= 100000
sim: ## simulate SEEDS=100000 downloads among faults, or one SEED=1234 with its log
	@GANTRY_SIM_SEEDS=$(SEEDS) $(if $(SEED),GANTRY_SIM_SEED=$(SEED)) \
		cargo test --locked --test sim -- --nocapture every_world

# ARGS="--seed 7", ARGS="--plan" and so on; tests/chaos/run.py says which.
chaos: ## break everything under running downloads: 212 faults by seed, every file compared
	@$(PYTHON) tests/chaos/run.py $(ARGS)

chaos-more: ## measure failover, 20 kills of 1 GiB, 10 GiB over a link that is cut, and a slow consumer
	@for script in failover kills long slow; do $(PYTHON) tests/chaos/$$script.py $(ARGS) || exit 1; done

bench: ## measure it beside S3, NATS, the Object Store, s5cmd and aws; ARGS=--quick to try, ARGS=--help
	@$(PYTHON) benches/run.py $(ARGS)

check-deploy: ## hold deploy/ to kubectl, systemd and promtool; part of test
	@$(PYTHON) deploy/dev/check_deploy.py

observe: ## a real Prometheus must have data for each query of the dashboard
	@$(PYTHON) deploy/dev/observe.py

test-containers: ## the image and the compose files on a Docker engine, with things broken under load
	@$(PYTHON) tests/containers/run.py

fmt: ## format the code
	cargo fmt

lint: ## clippy, warnings are errors
	cargo clippy --all-targets --locked -- -D warnings
