# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer; nothing has to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results

# Two test files at a time: they are one process and one thread each, but for those that start Ray.
RUN_PYTEST := MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PYTEST := $(RUN_PYTEST) -n 2 --dist loadfile

# Telemetry of what kdbench builds on stays off, and one thread per process keeps trainings side by side fair.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1

.PHONY: install demo test test-hosts check unit clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

demo: install
	$(BIN)/kdbench run studies/digits.yaml --results $(RESULTS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: install
	$(PYTEST) -m "not slow and not browser" $(PYTEST_ARGS)

test: check
	$(PYTEST) -m "not netns" $(PYTEST_ARGS)

# Two hosts in network namespaces of this machine, one of which is cut off: minutes, and only as root
test-hosts: install
	$(RUN_PYTEST) -m netns $(PYTEST_ARGS)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
