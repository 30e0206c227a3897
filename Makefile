# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer; nothing has to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results

# Two test files at a time: they are one process and one thread each, but for those that start Ray.
RUN_PYTEST := MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PYTEST := $(RUN_PYTEST) -n 2 --dist loadfile --no-loadscope-reorder

# Telemetry of what kdbench builds on stays off, and one thread per process keeps trainings side by side fair.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1

.PHONY: install demo test test-hosts check unit soak docs clean

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

# A study under fire for ten minutes, and as long again to end and to be checked; results/reliability/soak.md says what
# came out. As root with a full disk, too.
MINUTES ?= 10
SEED ?= 0
soak: install
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) --seed $(SEED)

# The documentation as a site in build/site; every warning is an error
docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
