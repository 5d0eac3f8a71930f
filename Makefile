PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := 5.1.0
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: fit test oldest lint bench docs hooks clean

# The bundled trace, fitted: prints the report, writes fit.nc and fit.png.
fit: $(VENV)/light
	$(BIN)/isingmoe example --output traces.nc --overwrite
	$(BIN)/isingmoe fit traces.nc --output fit.nc --figure fit.png --overwrite

# A file to a process: what its tests share is made once.
test: lint
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# Capture with the oldest transformers that the extra allows. Its Jamba writes on a GPU alone.
oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	grep -v -e ^transformers -e ^tokenizers -e ^huggingface constraints.txt > $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(VENV)-oldest/constraints.txt --editable '.[capture,dev]' transformers==$(OLDEST)
	$(VENV)-oldest/bin/python -m pytest --numprocesses 2 \
		--deselect 'tests/test_capture_generation.py::test_generation_is_one_pass_over_its_tokens[jamba]' \
		tests/test_capture_families.py tests/test_capture_generation.py tests/test_capture_going_on.py \
		tests/test_capture_refused.py

lint: $(VENV)/full
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

# Waiting threads spin here, as by default: the machine is to be idle.
bench: $(VENV)/full
	OMP_WAIT_POLICY=active $(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-disable-gc \
		--benchmark-columns=min,median,rounds

docs: $(VENV)/full
	$(BIN)/sphinx-build --fail-on-warning --quiet docs docs/_build/html

hooks: $(VENV)/full
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) $(VENV)-oldest docs/_build

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'isingmoe needs Python 3.11 or newer, got ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)

$(VENV)/light: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/full: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[all]'
	touch $(VENV)/light $@
