# Popfax Groups on one machine. `make help` says what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done

# Most of a run's processes begin by importing our code: compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE

LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
	--custom-compile-command "make lock"

# BUILD holds further options, such as `--build-arg BASE=…`.
IMAGE = docker build --file deploy/docker/Dockerfile $(BUILD) \
	--build-arg VERSION=$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	--build-arg COMMIT=$(shell git rev-parse --short HEAD)

.DEFAULT_GOAL := help
.PHONY: help setup demo drill drills check test-fast test mutants images test-images test-containers bench scale nemesis costs screenshots alerts lock \
	contracts release-contracts docs crashpoints

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv, fetch Kafka's jars and AsyncAPI's parser; costs nothing when that was done

demo: $(STAMP) ## Run the whole product on this machine
	$(BIN)/popfax demo

drill: $(STAMP) ## Upgrade the last release to this version on this machine, under traffic, and back: three to five minutes
	$(BIN)/popfax drill upgrade

check: $(STAMP) ## Check style, types and imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: $(STAMP) ## Run what needs no servers: unit, contracts, architecture, a short simulation
	$(BIN)/pytest --numprocesses 2 tests/unit tests/contracts tests/architecture tests/models
	$(BIN)/python -m tests.simulation 0 99

ifdef T
test: $(STAMP)
	$(BIN)/pytest $(T)
else
test: check ## Run all checks and all tests (T=path: one; STACK=containers: in containers)
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
endif

mutants: $(STAMP) ## Make every known mistake, and see that its layer catches it (ONLY=words of a name, LAYER=simulation, JOBS=n)
	$(BIN)/python -m tests.mutants $(if $(ONLY),--only "$(ONLY)") $(if $(LAYER),--layer $(LAYER)) $(if $(JOBS),--jobs $(JOBS))

images: ## Build the images (with Docker; BUILD=options of docker build)
	$(IMAGE) --tag popfax-groups --target service .
	$(IMAGE) --tag popfax-groups-operator --target operator .
	$(IMAGE) --tag popfax-groups-mailsink --target mailsink .

test-images: $(STAMP) images ## Build the images, try each, and the whole product with compose (with Docker)
	$(BIN)/pytest tests/engine/images.py tests/engine/compose.py

# What makes its own stack, of processes, is left out: it would show nothing of containers.
test-containers: $(STAMP) ## Run the end-to-end tests on Kafka and PostgreSQL in containers (with Docker)
	STACK=containers $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/integration/test_local_stack.py \
		tests/e2e --ignore tests/e2e/test_demo.py --ignore tests/e2e/test_secure.py

drills: $(STAMP) ## Run the tests that take minutes: installation, upgrade and back, replicas that come and go, restores, alerts
	$(BIN)/pytest -m drill

crashpoints: $(STAMP) ## Kill and stop services at every crash point, and judge what is left: some 25 minutes (FLAGS=--resume: go on)
	$(BIN)/python -m tests.crashpoints $(FLAGS)

bench: $(STAMP) ## Measure, for a quarter of an hour (QUICK=1: two minutes; GROWTH=1: also full databases; RUNS=n)
	$(BIN)/python -m tests.bench $(if $(QUICK),--quick) $(if $(GROWTH),--growth) $(if $(RUNS),--runs $(RUNS))

scale: $(STAMP) ## Measure what it costs to add and to take away replicas under traffic, for some minutes
	$(BIN)/python -m tests.e2e.scaling

nemesis: $(STAMP) ## Strike the whole product with every kind of fault under load (MINUTES=10; SEED=n: the same schedule again; SEED="1 2": both)
	$(BIN)/python -m tests.nemesis --table --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

costs: $(STAMP) ## Record what a message costs: statements, rows, bytes, function calls (tests/guard/costs.json)
	PYTHONHASHSEED=0 $(BIN)/python -m tests.guard

alerts: $(STAMP) ## Make every fault, see its alerts fire and resolve, and write the table into docs/operations/alerts.md
	$(BIN)/python -m tests.observability

screenshots: $(STAMP) ## Take a picture of every state of the page: build/screenshots/index.html
	$(BIN)/python -m tests.e2e.page.screenshots

contracts: $(STAMP) ## Write the contracts' schemas and AsyncAPI documents again
	$(BIN)/python -m deploy.contract_tools

release-contracts: $(STAMP) ## Freeze today's contracts: VERSION=2.1.0
	$(BIN)/python -m deploy.contract_tools release $(VERSION)

docs: $(STAMP) ## Write again what is generated: documents' tables, Prometheus' rules, Grafana's dashboards, manifests
	$(BIN)/python -m deploy.observability
	$(BIN)/python -m deploy.kubernetes.generate
	$(BIN)/python -m tests.documents

lock: $(STAMP) ## Choose the packages' versions again: requirements/*.txt
	$(LOCK) --all-extras --output-file requirements/dev.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --extra tracing --output-file requirements/services.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --extra operator --extra tracing --output-file requirements/operator.txt pyproject.toml
	echo aiosmtpd | $(LOCK) --constraint requirements/dev.txt --output-file requirements/mailsink.txt -
	echo cyclonedx-bom | $(LOCK) --constraint requirements/dev.txt --output-file requirements/sbom.txt -

# An interrupted setup leaves no stamp, and the next one goes on where it was.
$(STAMP): requirements/dev.txt pyproject.toml deploy/local/kafka-jars.sha256 deploy/local/postgres-archives.sha256 deploy/contract_tools/asyncapi-parser.sha256
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
		echo "Python's venv and ensurepip are needed: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@echo "1/6 making $(VENV)"
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "2/6 installing packages"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@echo "3/6 installing the product"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e .
	@echo "4/6 fetching Kafka's jars"
	@$(BIN)/python -m deploy.local.jars
	@echo "5/6 fetching PostgreSQL with TLS"
	@$(BIN)/python -m deploy.local.postgres_archive || echo "the local product can do without: only --tls needs it"
	@echo "6/6 fetching AsyncAPI's parser"
	@$(BIN)/python -m deploy.contract_tools.parser
	@touch $@
	@echo "Ready: make demo, make test"
