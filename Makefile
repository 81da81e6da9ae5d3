# make demo: set up and run the main job.  make test: set up and run the tests.
# Both make the virtual environment $(VENV) when it is not there. Nothing is needed but make and Python 3.11-3.13.
PYTHON ?= python3
VENV   ?= .venv
# another torch than the newest: make test TORCH=torch==2.13.0
TORCH  ?=
EXTRAS ?= dev
BIN    := $(VENV)/bin
# as many tests at once as there are cores, four at most: each is one thread
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
# uv reads UV_FIND_LINKS where pip reads PIP_FIND_LINKS: a folder of wheels, if one is configured and there
WHEELS := $(firstword $(wildcard $(PIP_FIND_LINKS)))
ifneq ($(WHEELS),)
export UV_FIND_LINKS ?= $(WHEELS)
endif
# one thread a process: small operations are many times slower when two processes share the cores' threads
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-core test-networks lint benchmark

demo: $(VENV)/.ok-$(EXTRAS)
	$(BIN)/torchmsaf compare digits

# all tests, those on other libraries' networks in an environment of their own
test: $(VENV)/.ok-$(EXTRAS)
	$(PYTEST) --ignore=tests/networks
	$(MAKE) test-networks VENV=$(VENV)-networks EXTRAS=networks

test-networks: $(VENV)/.ok-$(EXTRAS)
	$(PYTEST) tests/networks

# what must work with torch, NumPy and greenlet alone: make test-core VENV=.venv-core EXTRAS=core-test
test-core: $(VENV)/.ok-$(EXTRAS)
	$(PYTEST) $(wildcard tests/test_msaf*.py) tests/test_errors.py tests/ops tests/fusion tests/grafting tests/backbones tests/analysis/test_cost.py

lint: $(VENV)/.ok-$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/.ok-$(EXTRAS)
	$(BIN)/python -m benchmarks

$(VENV)/.ok-$(EXTRAS): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.8"
	$(BIN)/uv pip install -q --python $(BIN)/python -e ".[$(EXTRAS)]" $(TORCH)
	touch $@
