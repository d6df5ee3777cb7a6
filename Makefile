# Everything that a person or a build machine does with this repository. `make` lists it.

PYTHON ?= python3.11
DELTAIC_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/deltaic
DELTAIC_MODELS ?= $(DELTAIC_CACHE)/models
export PYTHON DELTAIC_CACHE DELTAIC_MODELS

BIN := .venv/bin
READY := .venv/.ready
STEP := tools/step.sh
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules

.PHONY: help
help: ## list the targets
	@echo "Deltaic. make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

# ---- prepare -----------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(READY) ## make .venv with everything installed (the engine is compiled once for this machine)
	@:

$(READY): pyproject.toml constraints.txt tools/setup.sh tools/wheel_cache.py tools/cache_folder.py
	@echo "setup"
	@tools/setup.sh
	@touch $@

.PHONY: models
models: $(READY) ## bring the demo model and make its example versions
	@echo "models"
	@$(BIN)/python tools/fetch_models.py

# ---- run ---------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(READY) models ## watch a model travel from center to edge to device (ARGS=--json for numbers)
	@$(BIN)/deltaic demo $(ARGS)

# ---- check -------------------------------------------------------------------------------------------------------

.PHONY: test
test: $(READY) models lint types layers proto-check ## everything: set-up, checks and all tests
	@echo "tests"
	@$(PYTEST) -q

.PHONY: unit
unit: $(READY) ## the quick tests: unit, property, contract
	@$(PYTEST) -q -m "not model" $(wildcard tests/unit tests/property tests/contract)

.PHONY: lint
lint: $(READY) ## style, spelling, dependencies
	@echo "lint"
	@$(STEP) "ruff check" $(BIN)/ruff check --no-cache .
	@$(STEP) "ruff format" $(BIN)/ruff format --no-cache --check .
	@$(STEP) "codespell" $(BIN)/codespell
	@$(STEP) "deptry" $(BIN)/deptry .

.PHONY: types
types: $(READY) ## mypy, strict
	@echo "types"
	@$(STEP) "mypy" $(BIN)/mypy
	@$(STEP) "mypy tools, examples, bench" $(BIN)/mypy tools/*.py examples/*.py bench/*.py

.PHONY: layers
layers: $(READY) ## who may import whom
	@echo "layers"
	@$(STEP) "import-linter" $(BIN)/lint-imports

.PHONY: proto-check
proto-check: $(READY) ## contracts: generated code up to date, buf lint, nothing broken since the baseline
	@echo "contracts"
	@$(STEP) "generated code" tools/generate_proto.sh --check
	@$(STEP) "buf lint" $(BIN)/buf lint proto
	@$(STEP) "buf format" $(BIN)/buf format --exit-code --diff proto
	@$(STEP) "buf breaking" $(BIN)/buf breaking proto --against proto/baseline.binpb

# ---- measure -----------------------------------------------------------------------------------------------------

BENCH_READY := .venv/.ready-bench
.PHONY: bench-hotset
bench-hotset: $(READY) ## load seconds of the hot set's policy beside others, on simulated traces (ARGS=...)
	@echo "bench hotset"
	@$(BIN)/python bench/hotset.py $(ARGS)

BENCHES := bench-delta bench-transfer bench-engine bench-branch

.PHONY: bench-setup
bench-setup: $(BENCH_READY) ## install what Deltaic is measured beside
	@:

$(BENCH_READY): $(READY) tools/bench_setup.sh
	@echo "bench set-up"
	@tools/bench_setup.sh
	@touch $@

.PHONY: bench-delta
bench-delta: ## size, speed and memory of deltas beside their peers (ARGS=...)
.PHONY: bench-transfer
bench-transfer: ## pulling a model beside curl from nginx, and over a line that is cut (ARGS=...)
.PHONY: bench-engine
bench-engine: ## answering many at once beside llama-server (ARGS=...)
.PHONY: bench-branch
bench-branch: ## three edges and a center: mixed load, a cut line, a slow line, the index gone (ARGS=...)
$(BENCHES): bench-%: bench-setup models
	@echo "bench $*"
	@$(BIN)/python bench/$*.py $(ARGS)

.PHONY: fuzz-delta
fuzz-delta: $(READY) ## apply 100,000 mutated deltas: each must end in a verified file or an error (ARGS=...)
	@echo "fuzz"
	@$(BIN)/python tools/fuzz_deltas.py --out bench/results/fuzz-delta.json $(ARGS)

.PHONY: storm
storm: $(READY) models ## kill edges, their index and the center for ten minutes under load (ARGS=...)
	@echo "storm"
	@$(BIN)/python tools/storm.py --out bench/results/storm.json $(ARGS)

# ---- change ------------------------------------------------------------------------------------------------------

.PHONY: format
format: $(READY) ## format code and contracts, mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write proto

.PHONY: proto
proto: $(READY) ## generate deltaic/v1 from proto/
	@tools/generate_proto.sh

.PHONY: proto-baseline
proto-baseline: $(READY) ## take today's contracts as what must not break (after a release)
	@$(BIN)/buf build proto --output proto/baseline.binpb

.PHONY: lock
lock: ## write constraints.txt anew from the newest versions that pyproject.toml allows
	@tools/lock.sh

.PHONY: clean
clean: ## remove what was made in this folder (models and wheels stay in the cache)
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
