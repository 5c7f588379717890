# make demo and make test do all their set-up themselves, in .venv; a second run skips it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROJECT := pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-slow test-gpu fuzz lint docs checkpoint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        shrink, build and measure the sparse checkpoint in examples/"
	@echo "make test        run the tests but the slow ones (PYTEST='tests/passes -x' says which)"
	@echo "make test-slow   run the slow ones (PYTEST='--minutes 8' starts none after 8 minutes)"
	@echo "make test-gpu    only those that need a CUDA GPU, with the libraries for one"
	@echo "make fuzz        mutated inputs through every command, for MINUTES=30 (FUZZ=TARGETS for some)"
	@echo "make lint        ruff, mypy and the layers that imports go down"
	@echo "make docs        the documentation as a site in build/site, with every link checked"
	@echo "make checkpoint  train the checkpoint in examples/ again"
	@echo "make clean       remove $(VENV) and everything made"

demo: $(VENV)/.demo
	@PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh

test: $(VENV)/.test
	@$(BIN)/pytest -n auto -m "not slow" $(PYTEST)

test-slow: $(VENV)/.test
	@$(BIN)/pytest -n auto -m slow $(PYTEST)

# In an environment of its own: onnxruntime and onnxruntime-gpu cannot be in one. One process, so
# that no two tests share the GPU's memory and clocks.
test-gpu:
	@$(MAKE) --no-print-directory VENV=.venv-gpu .venv-gpu/.testgpu
	@.venv-gpu/bin/pytest -m gpu $(PYTEST)

MINUTES ?= 10

# What it finds is in fuzz-findings/, with the command that runs it again. The seed is the day's.
fuzz: $(VENV)/.test
	@$(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES) --seed "$$(date +%Y%m%d)" $(FUZZ)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

checkpoint: $(VENV)/.demo
	$(BIN)/python examples/train_digits.py

clean:
	rm -rf $(VENV) .venv-gpu out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.testgpu: $(VENV)/.torch
	@echo "installing prunedeploy with onnxruntime-gpu and TensorRT into $(VENV)"
	@$(PIP_INSTALL) --editable '.[gpu,rtx,tensorrt]' || \
	  { echo "without TensorRT, which cannot be had here" >&2; \
	    $(PIP_INSTALL) --editable '.[gpu,rtx]'; }
	@$(PIP_INSTALL) pytest safetensors scikit-learn hypothesis build
	@touch $@

# One stamp for each set of extras. The install is editable, so that a changed source file needs
# no new one.
$(VENV)/.demo $(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(VENV)/.torch
	@echo "installing prunedeploy[$*] into $(VENV)"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

# torch alone and first: pip then takes the CPU build wherever the package index offers one.
$(VENV)/.torch: $(PROJECT)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "prunedeploy needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	@echo "creating $(VENV) and installing torch (the largest download)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	@touch $@
