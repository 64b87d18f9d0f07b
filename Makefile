PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A second environment, because anomalib pins what we do not; and an OpenCV other than its own.
PEERS := .venv-peers
OTHER_OPENCV ?= 4.10.0.84
DEMO ?= demo
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-peers lint bench bench-peers bench-export clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# One stamp per set of extras; a changed setup.cfg installs again.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cutswap needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

$(PEERS)/.installed: $(VENV)/.installed
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[peers]'
	@touch $@

$(PEERS)/opencv-$(OTHER_OPENCV)/.installed: $(PEERS)/.installed
	rm -rf $(@D)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --target $(@D) --no-deps \
		opencv-python-headless==$(OTHER_OPENCV)
	@touch $@

demo: $(VENV)/.installed ## sample data -> negatives -> detector -> table and pictures, in ./demo
	$(BIN)/cutswap-gen sample-data $(DEMO)/data --overwrite
	$(BIN)/cutswap-gen build $(DEMO)/data --out $(DEMO)/shards --jobs $(JOBS)
	$(BIN)/cutswap-gen preview $(DEMO)/shards --out $(DEMO)/sheets --count 4
	$(BIN)/cutswap-det fit $(DEMO)/shards --out $(DEMO)/untuned --updates 0 --false-alarm-rate 0.05
	$(BIN)/cutswap-det fit $(DEMO)/shards --out $(DEMO)/models --updates 20 --frozen-start 8 --batch 12 \
		--false-alarm-rate 0.05
	@echo; echo "untuned extractor:"
	$(BIN)/cutswap-det eval $(DEMO)/untuned $(DEMO)/data --out $(DEMO)/results-untuned
	@echo; echo "extractor trained for 20 updates on the negatives:"
	$(BIN)/cutswap-det eval $(DEMO)/models $(DEMO)/data --out $(DEMO)/results
	$(BIN)/cutswap-det report $(DEMO)/models $(DEMO)/data --set $(DEMO)/shards --out $(DEMO)/report.html \
		--overwrite
	$(BIN)/cutswap-det score $(DEMO)/models/* $(DEMO)/data/*/test/scratch --heatmaps $(DEMO)/heatmaps
	@echo; echo "contact sheets of the negatives: $(DEMO)/sheets"
	@echo "curves, histograms and cases:    $(DEMO)/results"
	@echo "all of it on one page:           $(DEMO)/report.html"
	@echo "heat maps of the scratches:      $(DEMO)/heatmaps"

test: $(VENV)/.installed-test lint ## lint, import rules and the normal tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: $(VENV)/.installed-test ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-peers: $(PEERS)/opencv-$(OTHER_OPENCV)/.installed ## exports and extractors in anomalib, replays by another OpenCV
	$(PEERS)/bin/python -c 'import anomalib.data'
	CUTSWAP_OTHER_OPENCV=$(abspath $(<D)) OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -m slow \
		tests/test_gen_export.py tests/test_gen_replay_drift.py tests/test_det_export_peers.py

lint: $(VENV)/.installed-test ## ruff, import-linter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(VENV)/.installed-bench ## side-by-side timings
	$(BIN)/python benchmarks/saliency_peers.py
	$(BIN)/python benchmarks/build_floor.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/feeding.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/replay.py --large
	$(BIN)/python benchmarks/memory_budget.py large

bench-peers: $(PEERS)/.installed ## the same beside anomalib, on DATA=FOLDER with a test split
	@test -n "$(DATA)" || { echo "name a data set: make bench-peers DATA=FOLDER" >&2; exit 1; }
	$(PEERS)/bin/python benchmarks/metrics.py
	$(PEERS)/bin/python benchmarks/coreset.py $(DATA)
	$(PEERS)/bin/python benchmarks/scoring.py $(DATA)

bench-export: $(VENV)/.installed-bench ## exported graphs beside our scorer, of MODEL=FOLDER on DATA=PHOTOS
	@test -n "$(MODEL)" -a -n "$(DATA)" || { echo "make bench-export MODEL=FOLDER DATA=PHOTOS" >&2; exit 1; }
	$(BIN)/python benchmarks/export.py $(MODEL) $(DATA)

clean: ## remove the environments and everything generated
	rm -rf $(VENV) $(PEERS) build dist *.egg-info demo bench-out .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
