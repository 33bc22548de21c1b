# The project's commands. `make help` lists them; each makes the virtual environment it needs.
#
#   make demo PYTHON=python3.12    with another Python (3.11 or newer)
#   make demo TORCH=cpu            with PyTorch's CPU build, some 200 MB: on Linux, PyPI's carries CUDA and takes gigabytes
#
# A .venv that exists is used as it is, and a torch that is in it is kept. Works with GNU make 3.81 (macOS) and later.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 3
DEVICE ?= auto
KILLS ?= 200
DRAWS ?= 2000
WALKS ?= 5000
TESTS ?= not slow
TORCH ?=
TORCH_CPU_INDEX = https://download.pytorch.org/whl/cpu
PROMPT ?= def read_lines(path):

# Bytecode is kept, whatever the environment says: without it each process of the tests compiles all of tfkit, and each worker all tests.
unexport PYTHONDONTWRITEBYTECODE

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
CODE = tfkit tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-all faults slow gpu site check lint format bench clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## train a small model on Python's standard library, score it, let it write: about four minutes
	$(BIN)/tfkit pretrain demo --run runs/demo --resume
	$(BIN)/tfkit evaluate --from runs/demo
	$(BIN)/tfkit generate --from runs/demo --prompt "$(PROMPT)" --max-new-tokens 64

test: $(VENV)/.installed-dev ## the tests to run before a commit: every package and every promise, in minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not thorough"

test-all: $(VENV)/.installed-dev ## all tests but the slow ones (TESTS="thorough and not slow": those that make test leaves out)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "$(TESTS)"

faults: $(VENV)/.installed-dev ## every row of the fault matrix on the real program, training on ranks, random walks, slow tests too; writes docs/faults.md
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/faults tests/walks tests/parallel tests/alignment/test_grpo_runs.py tests/alignment/test_ppo_runs.py --write-table --kills $(KILLS) --draws $(DRAWS) --walks $(WALKS)

slow: $(VENV)/.installed-dev ## the tests that take more than ten seconds each
	$(BIN)/python -m pytest -m slow

gpu: $(VENV)/.installed-dev ## tests and training speed on the GPU, in under ten minutes; writes gpu-report.md (DEVICE=cpu: the same without one)
	$(BIN)/python benchmarks/gpu_report.py --device $(DEVICE)

site: $(VENV)/.installed-docs ## the documentation as a site, in build/site; its reference is written from the code
	$(BIN)/python docs/reference_pages.py docs/reference
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees -c docs . build/site

check: $(VENV)/.installed-dev ## format, lint and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

lint: $(VENV)/.installed-dev ## lint alone
	$(BIN)/ruff check $(CODE)

format: $(VENV)/.installed-dev ## put the code into its format, and mend what ruff can
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(VENV)/.installed-dev ## compressors on the held-out files, and start-up times
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/baselines.py

clean: ## remove caches and builds; .venv and runs stay
	rm -rf build dist docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that `python -m venv` makes, so an interrupted one is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tfkit needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make $(MAKECMDGOALS) PYTHON=python3.12" % sys.version_info[:2])'
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(BIN)/pip
	@$(call install,.)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(BIN)/pip
	@$(call install,.[dev])
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml $(BIN)/pip
	@$(call install,.[docs])
	@touch $(VENV)/.installed $@

define install
if [ "$(TORCH)" = cpu ] && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	echo "installing PyTorch's CPU build into $(VENV)"; \
	$(PIP) install torch --index-url $(TORCH_CPU_INDEX) || exit 1; \
fi; \
echo "installing tfkit into $(VENV): minutes the first time, since PyTorch is large"; \
$(PIP) install --editable '$(1)'
endef
