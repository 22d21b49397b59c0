# `make demo`, `make test`, `make docs` and `make dist`. Each sets up what it needs; the machine needs Python >= 3.11 and
# make. UV_TORCH_BACKEND=cpu in the environment installs torch without CUDA, by uv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
WORKERS ?= 2

.PHONY: demo test docs dist licences fuzz audit mutants gpu lint types tests install format clean

demo: $(INSTALLED)
	$(RUN) -m boxwright demo

test: lint types tests

lint: $(INSTALLED)
	$(RUN) -m ruff format --check src tests benchmarks examples docs
	$(RUN) -m ruff check src tests benchmarks examples docs
	$(VENV)/bin/lint-imports

types: $(INSTALLED)
	$(RUN) -m pyright --pythonpath $(RUN)

tests: $(INSTALLED)
	$(RUN) -m pytest -m "not cuda" -n $(WORKERS) --dist loadfile --no-loadscope-reorder  # files that take long come first

# Kills, faults, damage and full disks, with the counts of docs/safety.md: an hour or so.
audit: $(INSTALLED)
	$(RUN) -m tests.audits

# Damaged files for every reader: COUNT of them (5,000), those of SEED (1).
fuzz: $(INSTALLED)
	$(RUN) -m tests.fuzz.readers

# Sixty changed formulae, each of which a test must see: half an hour.
mutants: $(INSTALLED)
	$(RUN) -m tests.mutants $(WORKERS)

# On a machine with a GPU, within ten minutes: the tests that need one, then the figures of docs/gpu.md.
gpu: $(INSTALLED)
	$(RUN) -m pytest tests/gpu; tested=$$?; \
	$(RUN) benchmarks/gpu.py --out runs/gpu.json --table docs/gpu.md && exit $$tested

format: $(INSTALLED)
	$(RUN) -m ruff format src tests benchmarks examples docs
	$(RUN) -m ruff check --fix src tests benchmarks examples docs

# The site, in site/: without a network, and without a warning. The pictures of how.md: python docs/draw_pictures.py.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

# Wheel and sdist, in dist/: each built twice with the same bytes, the wheel installed and the demo run from elsewhere.
# What it is installed with: make dist INSTALL="torch==2.13.0"; by default the versions of constraints.txt.
dist:
	$(PYTHON) tests/dist.py $(INSTALL)

# docs/licences.md anew, after a change of pyproject.toml or constraints.txt.
licences: $(INSTALLED)
	$(RUN) docs/licences.py

install: $(INSTALLED)

# torch, torchvision and all the rest in one resolver call: a torch wheel chosen by itself may not fit torchvision.
$(INSTALLED): pyproject.toml constraints.txt examples/tracking.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Boxwright needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@if uv --version >/dev/null 2>&1; then \
	  set -x; \
	  uv venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) && \
	  uv pip install --quiet --python $(RUN) --constraint constraints.txt --editable '.[dev]' && \
	  uv pip install --quiet --python $(RUN) --no-deps --requirement examples/tracking.txt; \
	elif [ -n "$$UV_TORCH_BACKEND" ]; then \
	  set -x; \
	  $(PYTHON) -m venv $(VENV) && $(RUN) -m pip install --quiet uv && \
	  $(VENV)/bin/uv pip install --quiet --python $(RUN) --constraint constraints.txt --editable '.[dev]' && \
	  $(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --requirement examples/tracking.txt; \
	else \
	  set -x; \
	  $(PYTHON) -m venv $(VENV) && \
	  $(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]' && \
	  $(RUN) -m pip install --quiet --no-deps --requirement examples/tracking.txt; \
	fi
	@touch $@

clean:
	rm -rf $(VENV)
