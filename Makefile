# make run    everything that is missing, then the app at http://127.0.0.1:8501
# make setup  everything that is missing, and no more
# make test   the checks and all tests
# Written for GNU Make 3.81, which is what macOS has.

PORT ?= 8501
HOST ?= 127.0.0.1
PYTHON ?=

EMBEDDED := smollm2-135m-instruct@onnx smollm2-135m-instruct@openvino
TESTED := $(EMBEDDED) smollm2-135m-instruct@transformers smollm2-135m-instruct@mlx
PY := .venv/bin/python
# A stamp is written when its step is complete: what was interrupted is done again.
MADE := .venv/.made
APP := .venv/.requirements
DEV := .venv/.requirements-dev
# Compiling all modules would take as long as the downloads; Python compiles what it imports.
PIP := $(PY) -m pip install --disable-pip-version-check --no-input --no-compile
unexport PYTHONDONTWRITEBYTECODE

# A .venv whose Python is gone (an upgrade, a moved folder) is made again.
ifneq ($(wildcard $(MADE)),)
ifneq ($(shell $(PY) -c 'print(1)' 2>/dev/null),1)
$(shell rm -f $(MADE))
endif
endif

.PHONY: help run setup fetch fetch-tested test check fix bench clean

help:
	@echo "make run     start the playground (PORT=8501 HOST=127.0.0.1 PYTHON=...)"
	@echo "make setup   only prepare: .venv, packages, the embedded model"
	@echo "make test    ruff, mypy and all tests"
	@echo "make check   ruff and mypy"
	@echo "make fix     let ruff correct and format"
	@echo "make bench   the benchmarks"
	@echo "make clean   delete .venv and caches; models stay"

run: setup
	@exec $(PY) -m streamlit run ui/server.py --server.port $(PORT) --server.address $(HOST)

setup: $(APP) fetch

$(MADE):
	@python=$$(sh scripts/python.sh "$(PYTHON)") && \
	echo "Making .venv with $$python" && \
	"$$python" -m venv --clear .venv
	@touch $@

$(APP): $(MADE) requirements.txt
	@echo "Installing the packages of requirements.txt (once; some are large)"
	@$(PIP) -r requirements.txt
	@touch $@

$(DEV): $(APP) requirements-dev.txt
	@echo "Installing the packages of requirements-dev.txt"
	@$(PIP) -r requirements-dev.txt
	@touch $@

fetch: $(APP)
	@$(PY) -m slm_backends fetch $(EMBEDDED)

fetch-tested: $(DEV)
	@$(PY) -m slm_backends fetch $(TESTED)

test: $(DEV)
	@$(MAKE) --no-print-directory -j 2 fetch-tested check
	@CHROMIUM=$$(sh scripts/chromium.sh $(PY)) && export CHROMIUM && exec $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(DEV)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

fix: $(DEV)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: $(DEV) fetch-tested
	@CHROMIUM=$$(sh scripts/chromium.sh $(PY)) && export CHROMIUM && exec $(PY) -m benchmarks

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
