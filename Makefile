# Everything a newcomer needs: `make run`, `make test` and `make docs`. Python 3.11 or newer with pip and venv.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= flax,experiments,convert,cluster,peers,test
BIN = $(VENV)/bin

.PHONY: run test test-all docs abilities promises bench bench-training bench-parts bench-cells bench-gpu lint install clean

run: install
	$(BIN)/jaxlstm study configs/studies/vanishing.toml
	$(BIN)/jaxlstm run configs/shakespeare.toml

test: install
	$(BIN)/python -m pytest -q -n auto

test-all: install
	$(BIN)/python -m pytest -q -n auto -m ''

# Strict: a cell that fails, a link that leads nowhere, any warning ends it with an error.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -n docs docs/_build/html
	@echo docs/_build/html/index.html

abilities: install
	$(BIN)/python -m pytest -q -n auto -m ability --abilities=docs/abilities.md

promises: install
	$(BIN)/python -m pytest -q -n auto -m 'promise' --promises=docs/promises.json

bench: $(VENV)/.bench
	$(BIN)/python experiments/speed/measure.py

bench-training: $(VENV)/.bench
	$(BIN)/python experiments/speed/training.py

bench-parts: $(VENV)/.bench
	$(BIN)/python experiments/speed/parts.py

bench-cells: $(VENV)/.bench
	$(BIN)/python experiments/speed/cells.py

# Where JAX and torch both see a GPU already: neither is installed here.
bench-gpu:
	PYTHONPATH=. $(PYTHON) experiments/speed/gpu.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "jaxlstm needs Python 3.11 or newer, got %d.%d: try make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[peers,torch]'
	@touch $@

clean:
	rm -rf $(VENV) build docs/_build docs/results *.egg-info
