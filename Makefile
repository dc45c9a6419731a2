# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# onnxruntime and onnxruntime-gpu share a folder and break each other, so exactly one is installed.
DEVICE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(DEVICE)
LEARNED := $(VENV)/.learned

.PHONY: install learn ray models demo test lint types contracts check wheel test-wheel parity reference bench peers faults fuzz gpu-check gpu-install-check deploy-check clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(DEVICE),dev,fast]'
	# Its wheels need glibc 2.38; without it one test skips.
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps perf-analyzer
	touch $@

# What training needs: torch among it, which a serving host does without.
learn: $(LEARNED)

$(LEARNED): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train]'
	touch $@

# What spreads planes and runs over several hosts; its tests skip without it.
ray: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ray]'

# A second call needs no network.
models: install
	$(BIN)/loki-rl models fetch reading

demo: install
	$(BIN)/loki-rl demo

test: models
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .

# Types of what training imports are checked too.
types: learn
	$(BIN)/mypy

contracts: install
	$(BIN)/lint-imports

check: lint types contracts test

# Of all flags, from where they are declared; a test fails where it is not current.
reference: install
	$(BIN)/python -m loki_rl.cli.reference >docs/reference.md

# For deployment: the data plane's actors in it are machine code (mypyc; needs a C compiler). Made from the source archive, so
# that nothing compiled comes to lie beside the sources.
wheel: install
	rm -rf dist
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/python -m build --outdir dist

# What is tested of the sources, tested of the machine code.
test-wheel: wheel models
	rm -rf build/wheel
	$(BIN)/python -m zipfile -e dist/*.whl build/wheel
	cp -r tests pipelines pyproject.toml build/wheel
	cd build/wheel && PYTHONPATH=. $(abspath $(BIN))/python -m pytest tests/core tests/env/test_world.py tests/env/test_faults.py tests/env/test_pool_world.py \
		tests/serving/transport/test_driver.py tests/serving/transport/test_mailbox.py tests/serving/observe/test_meter.py tests/serving/process/test_node.py

# Is the twin like a plane of this host? Ten minutes at most, on a machine that does little else.
parity: models
	$(BIN)/python -m benchmarks.parity

bench: install
	for file in $(filter-out benchmarks/gpu_check.py benchmarks/parity.py benchmarks/fidelity.py benchmarks/soak.py benchmarks/host.py benchmarks/windows.py, $(wildcard benchmarks/*.py)); do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

# Hours, on a machine that does nothing else: beside Triton, Ray Serve and others, each from PyPI in an environment of its own.
peers: models
	$(BIN)/python -m benchmarks.peers all

# A quarter of an hour, then half an hour, on a machine that does nothing else: what faults cost, and what grows.
faults: install
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.soak

# Every parser of what others wrote, for so many minutes of processor time each.
FUZZ_MINUTES ?= 20
fuzz: install
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m fuzz --minutes $(FUZZ_MINUTES)

# One JSON object: do the models run on the GPU, do they compute what a CPU does, and how fast.
gpu-check: models
	$(BIN)/python -m benchmarks.gpu_check --device cuda

# The deployment files as Docker Compose, kubectl and Kubernetes' schemas read them, without Docker or a cluster (Debian: docker-compose, kubernetes-client).
deploy-check: install
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[deploy]'
	$(BIN)/python deploy/check.py

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
