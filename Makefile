# tokentrace. `make demo`, `make check` and `make test` need nothing but Python 3.11, make and the package registries.

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
SERVICES := .cache/services-ready
PROCESSES ?= 4
GO_PROCESSES ?= 2
# Packages that constraints.txt fixes.
PACKAGES := $(shell grep -c == constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo check test coverage chaos soak bench fuzz lint format docs site release image base image-test kafka helm kubernetes kubernetes-test prometheus clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## Make .venv and install tokentrace with its tools

# $(call install,WHAT): install it in .venv, and say every two seconds how far it is. A registry that fails is asked again.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokentrace needs Python 3.11 or newer; run: make $@ PYTHON=/path/to/python3.11")'
	@mkdir -p $(VENV)
	@($(PYTHON) -m venv $(VENV) && for again in 1 0; do $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check \
		--constraint constraints.txt --editable '$(1)' && break; test $$again = 1; done) >$(VENV)/pip.log 2>&1 & pip=$$!; \
	while kill -0 $$pip 2>/dev/null; do sleep 2; \
		echo "  $$(grep -c '^ *Downloading.*whl \|^ *Using cached.*whl ' $(VENV)/pip.log) packages fetched," \
			"$$(ls -d $(VENV)/lib/python3*/site-packages/*.dist-info 2>/dev/null | wc -l) installed: $$(tail -1 $(VENV)/pip.log | cut -c1-90)"; \
	done; \
	wait $$pip || { tail -30 $(VENV)/pip.log; exit 1; }
	@touch $@
endef

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "Making $(VENV), with tokentrace and its tools: about $(PACKAGES) packages, some minutes the first time."
	$(call install,.[dev])

# What runs, without the tools of developers, unless they are there.
$(VENV)/runs: pyproject.toml constraints.txt
	@echo "Making $(VENV), with tokentrace and the packages that it needs: a minute or two the first time."
	$(call install,.)

demo: $(if $(wildcard $(VENV)/ready),setup,$(VENV)/runs) ## See it work, with nothing else installed
	$(BIN)/tokentrace demo $(ARGS)

check: lint ## Lint, types, and every test that needs no service: under a minute
	HYPOTHESIS_PROFILE=dev $(BIN)/python -m pytest --quiet --numprocesses auto --dist worksteal -m "not real and not nightly" $(ARGS)

# Tests on real services mostly wait, so twice as many processes as a small machine has cores end soonest.
test: setup $(SERVICES) ## Run every test, on a real Kafka and Prometheus where they can be had
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --no-loadscope-reorder -m "not nightly" $(ARGS)

coverage: ## Run every test and show which lines none of them reaches
	$(MAKE) test ARGS="--cov --cov-report=term $(ARGS)"

chaos: setup $(SERVICES) ## Crashes and storms on a real Kafka, all of them (DURATION=40s JSON=FILE: a short storm alone)
	$(if $(DURATION),,$(BIN)/python -m pytest -m nightly tests/chaos tests/integration)
	DURATION=$(DURATION) JSON=$(JSON) SEED=$(SEED) $(BIN)/python -m tests.chaos

soak: setup $(SERVICES) ## Flat memory and exact counts at the highest rate (DURATION=10m RATE=spans/s WORKERS=2 JSON=FILE)
	DURATION=$(DURATION) RATE=$(RATE) WORKERS=$(WORKERS) JSON=$(JSON) $(BIN)/python -m tests.chaos.soak

bench: setup $(SERVICES) ## Measure speed, memory and latency against baselines (QUICK=1, JSON=FILE, ARGS="--only ac")
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON)) $(ARGS)

fuzz: setup ## Compare the two decoders on random bytes for ten minutes (ARGS="--seconds 60")
	$(BIN)/python -m pytest -m nightly tests/fuzz
	$(BIN)/python -m tests.fuzz.fuzz_decode $(ARGS)
	$(BIN)/python -m tests.fuzz.fuzz_otlp $(ARGS)

lint: setup ## Check style, types, spelling and language
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python -m tests.language
	$(BIN)/mypy

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Write the generated parts of docs/ and schemas/, and the dashboards
	$(BIN)/python docs/generate.py
	$(BIN)/python -m dashboards.generate
	$(BIN)/python -m dashboards.ledger

site: setup ## Build the documentation as a site, in .cache/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Where Java or Maven is missing, the tests that need these services are skipped and say so.
$(SERVICES): tests/pom.xml
	@if command -v mvn >/dev/null && command -v java >/dev/null; then \
	  echo "Fetching Apache Kafka and a schema registry into .cache"; \
	  mvn --quiet --batch-mode --file tests/pom.xml package -Dcache=$(CURDIR)/.cache && touch $@; \
	else echo "Java and Maven are not installed: no real Kafka"; fi

kafka: setup $(SERVICES) ## Run a real Apache Kafka on 127.0.0.1:9092 (Ctrl-C ends it)
	$(BIN)/python -m tests.services.kafka --port 9092 --data .cache/kafka-data

release: setup ## Build the wheel and the sdist twice, compare them, and write them with a bill of materials into dist/
	$(BIN)/python -m release

image: setup ## Build the image with docker, podman or buildah (ARGS="--locked --tag NAME -- --platform linux/arm64")
	$(BIN)/python -m release.image $(ARGS)

base: ## Write the digest of the image's base into deploy/base.lock (ARGS=--check verifies it; skopeo or docker)
	$(PYTHON) -m release.base $(ARGS)

image-test: setup $(SERVICES) ## Build the image; run it, compose.yaml and a roll-out on a real Kafka (podman or docker, as root)
	$(BIN)/python -m pytest -m nightly -s tests/image

helm: ## Build Helm from its Go module into .cache, for the tests of the chart (about four minutes of one core)
	GOBIN=$(CURDIR)/.cache/bin go install -p 1 helm.sh/helm/v3/cmd/helm@v3.22.0

# etcd, which the control plane needs beside these, is a package of Debian: etcd-server.
KUBE_VERSION := $(shell awk '$$1 == "k8s.io/kubernetes" {print $$2}' tests/services/kubernetes/go.mod)
KUBE_COMMANDS := kube-apiserver kube-controller-manager kube-scheduler kubectl
kubernetes: ## Build a Kubernetes control plane and its validation from Go modules into .cache (15 minutes of one core)
	mkdir -p .cache/kubernetes
	cd tests/services/kubernetes && go build -p $(GO_PROCESSES) -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(KUBE_VERSION)" \
	  -o $(CURDIR)/.cache/kubernetes/ ./validate $(addprefix k8s.io/kubernetes/cmd/,$(KUBE_COMMANDS))

kubernetes-test: setup $(SERVICES) ## Run every overlay and the chart on that control plane, under traffic (after make kubernetes)
	$(BIN)/python -m pytest -m nightly -s tests/kubernetes $(ARGS)

.PHONY: servers
servers: ## Build Prometheus 3, VictoriaMetrics and vmalert from Go modules into .cache (five minutes of one core)
	GOBIN=$(CURDIR)/.cache/bin go install -p $(GO_PROCESSES) \
	  github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics@v1.151.0 \
	  github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert@v1.151.0
	GOBIN=$(CURDIR)/.cache/bin go install -p $(GO_PROCESSES) -tags remove_all_sd,enable_kubernetes_sd \
	  github.com/prometheus/prometheus/cmd/prometheus@v0.316.0

prometheus: setup ## Run a real Prometheus on 127.0.0.1:9091 that scrapes a worker on 127.0.0.1:9090
	$(BIN)/python -m tests.services.prometheus --port 9091 --target 127.0.0.1:9090 --data .cache/prometheus-data

clean: ## Remove everything that make has made
	rm -rf $(VENV) .cache dist .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache
