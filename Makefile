# The daily loop is `make check`; `make test` is everything a clean machine can run.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
# Where it is set, each of hundreds of processes compiles all that it imports: 2 s instead of 1.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test format clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/fusetune demo

# uv installs the whole set in half a minute, pip takes a few; pip remains as the fallback.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]' \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Tests run in two processes: a second thread in each would only wait for a core.
check test: export OMP_NUM_THREADS = 1

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 -m 'not slow and not browser and not data and not gpu and not network'

test: check
	FUSETUNE_EXAMPLES=12 $(BIN)/pytest -n 2 tests/contracts
	$(BIN)/pytest -n 2 -m '(slow or browser or data) and not gpu and not network'

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
