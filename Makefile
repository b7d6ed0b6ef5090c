# Every target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions of constraints.txt without its hashes: pip takes no hashes for an editable project. A mirror or a
# build of torch for CPUs alone, which has other hashes, may serve these versions.
PINS := $(VENV)/pins.txt

.DEFAULT_GOAL := help
.PHONY: help setup dev serve test test-long lint pins pins-cpu docs bench format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv and install what the service and the training need

dev: $(VENV)/.installed-dev ## the same with what the tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV): the first time this takes some minutes, mostly torch."
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -e '/^ *--hash/d' -e 's/ \\$$//' constraints.txt > $(PINS)
	@$(BIN)/python -m pip install --quiet --constraint $(PINS) --editable '.[training]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --constraint $(PINS) --editable '.[dev,training]'
	@touch $@

serve: setup ## start the service, by default on http://127.0.0.1:8000 (PORT=..., HOST=..., REID_...)
	@$(BIN)/reid serve $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

lint: dev ## ruff, mypy, import-linter, the audit of dependencies and the Alembic check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/audit.py
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && export REID_DATA_DIR="$$data" && \
		$(BIN)/alembic upgrade head && $(BIN)/alembic check

pins: dev ## write constraints.txt again for the requirements of pyproject.toml (PINS_FLAGS=--upgrade: newest)
	UV_CUSTOM_COMPILE_COMMAND='make pins' $(BIN)/uv pip compile pyproject.toml --all-extras --group image --universal \
		--generate-hashes --no-annotate --output-file constraints.txt --quiet $(PINS_FLAGS)

pins-cpu: dev ## write docker/constraints-cpu.txt, the pins of the images with torch and FAISS for CPUs alone
	$(BIN)/python docker/requirements.py cpu training > $(VENV)/cpu.txt
	sed 's/^\(faiss-cpu==[^ ]*\) ;.*/\1/' $(PINS) > $(VENV)/pins-cpu.txt
	UV_CUSTOM_COMPILE_COMMAND='make pins-cpu' $(BIN)/uv pip compile $(VENV)/cpu.txt --constraint $(VENV)/pins-cpu.txt \
		--torch-backend cpu --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
		--no-annotate --output-file docker/constraints-cpu.txt --quiet $(PINS_FLAGS)

docs: dev ## build the documentation into docs/site; a broken link is an error
	$(BIN)/zensical build --strict --clean --config-file docs/zensical.toml

# The hundreds of processes that tests start do not compile the code anew, whatever the environment says.
# One process more than there are cores, because tests also wait: for servers to start, and for files to reach the disk.
PROCESSES := $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
# The tests write to the disk thousands of times and would wait for it each time, though no test cuts the power. They
# write to memory where 8 GiB are free for files. To write elsewhere: make test TMPDIR=/tmp
TMPDIR ?= $(shell $(PYTHON) -c 'import os, shutil, tempfile; memory = "/dev/shm"; print(memory if os.path.isdir(memory) and not os.statvfs(memory).f_flag & os.ST_NOEXEC and shutil.disk_usage(memory).free > 8 << 30 else tempfile.gettempdir())')
PYTEST = TMPDIR=$(TMPDIR) PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal --durations 10

test: lint docs ## everything that must pass; the last lines are the slowest ten tests
	$(PYTEST)

test-long: dev ## the tests alone, with the long proofs at their full size
	$(PYTEST) --long

format: dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## time the network against its full-affinity twin on this machine
	PYTHONPATH=tests:tests/support $(BIN)/python tests/benchmarks/network.py

clean: ## remove the environment and the caches, never the data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/site docs/.cache
