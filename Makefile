# make demo       three teachers, one student, a report: the whole pipeline on text that the project brings along
# make test       linters, type checks and every test
# make test-fast  linters and the quick tests
# make format     formats the code
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-fast lint format clean

demo: $(VENV)/.installed
	$(BIN)/mergedistill pipeline --gin_file=gin/runs/demo.gin

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

test-fast: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pip only brings uv, which installs the rest several times faster.
$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e .
	touch $@

# torch and transformers are references for the tests; nothing of the project needs them at run time.
$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs/demo
