# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# onnxruntime and onnxruntime-gpu share a folder and break each other, so exactly one is installed.
DEVICE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(DEVICE)
LEARNED := $(VENV)/.learned
SPREAD := $(VENV)/.ray
SITE := $(VENV)/.site
FUZZING := $(VENV)/.fuzz
# Tests start some thousand interpreters: what they import is compiled once, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install learn ray site fuzzing models demo compiled test lint types contracts check wheel test-wheel test-packages test-lowest test-newest parity reference docs docs-check screenshots test-docs bench peers faults fuzz gpu-check gpu-install-check deploy-check clean

# What stands behind ## at a target.
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 20

install: $(STAMP)  ## everything but training, in .venv

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(DEVICE),dev,fast]'
	# Its wheels need glibc 2.38; without it one test skips.
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps perf-analyzer
	touch $@

# What training needs: torch among it, which a serving host does without.
learn: $(LEARNED)  ## what training needs, too

$(LEARNED): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train]'
	touch $@

# Its tests skip without it.
ray: $(SPREAD)  ## what spreads planes and runs over several hosts

$(SPREAD): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ray]'
	touch $@

# A second call needs no network.
models: install  ## fetch the models of pipeline reading
	$(BIN)/loki-rl models fetch reading

demo: install  ## the main job, end to end: about six minutes
	$(BIN)/loki-rl demo

# Once after an install or an update: two minutes.
compiled: install  ## what tests and benchmarks have compiled
	$(BIN)/python -m tests.compiling

# Files of tests side by side: so many as tests/conftest.py says. `.venv/bin/python -m pytest FILE` runs one by itself.
test: models compiled  ## all tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: install  ## ruff
	$(BIN)/ruff check .

# Types of what training imports are checked too.
types: learn  ## mypy
	$(BIN)/mypy

contracts: install  ## which module may import which
	$(BIN)/lint-imports

check: lint types contracts test  ## lint, types, contracts and tests

# Pages made from the code: flags, keys of files, metrics, environments; a test fails where one is not current.
reference: install  ## pages made from the code
	$(BIN)/python -m loki_rl.manual docs

site: $(SITE)
fuzzing: $(FUZZING)

# The documentation as a site, at http://127.0.0.1:8001, made anew when a page changes.
docs: site  ## the documentation at http://127.0.0.1:8001
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

# Fails for a warning, a dead link or a page that the navigation lacks. Needs no network.
docs-check: site  ## build it, red for a warning or a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(SITE): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

# Pictures of TensorBoard in docs, as a headless Chromium sees it.
screenshots: install  ## pictures of TensorBoard in docs
	LOKI_SCREENSHOTS=docs $(BIN)/python -m pytest tests/reports/test_tensorboard.py

# Types every block of README, quick start and tutorials in a copy of these files, for half an hour or more;
# QUICK=--quick leaves out what takes long.
test-docs:  ## type what README and tutorials say: half an hour
	PYTHON=$(PYTHON) $(PYTHON) .ci/typed.py $(QUICK)

# For deployment: the data plane's actors in it are machine code (mypyc; needs a C compiler). Made from the source archive, so
# that nothing compiled comes to lie beside the sources.
wheel: install  ## source archive and wheel, in dist
	rm -rf dist
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/python -m build --outdir dist

# What is tested of the sources, tested of the machine code.
test-wheel: wheel models  ## the actors' tests on the wheel
	rm -rf build/wheel
	$(BIN)/python -m zipfile -e dist/*.whl build/wheel
	cp -r tests pipelines pyproject.toml build/wheel
	# What numba has compiled of the same sources holds there, too.
	find -L loki_rl -name '*.nb[ic]' | tar --create --dereference --files-from - | tar --extract --directory build/wheel
	cd build/wheel && PYTHONPATH=. $(abspath $(BIN))/python -m pytest tests/core tests/env/test_world.py tests/env/test_faults.py tests/env/test_pool_world.py \
		tests/serving/transport/test_driver.py tests/serving/transport/test_mailbox.py tests/serving/observe/test_meter.py tests/serving/process/test_node.py

# Wheel and source archive as users install them, each alone, and the main commands from an empty folder.
test-packages: wheel  ## wheel and source archive, used from an empty folder
	.ci/packages $(BIN)/python dist

# Where nothing but libraries or Python differ: the main commands, and the tests of what that could break.
test-lowest: install  ## with the lowest versions that pyproject.toml allows
	.ci/versions lowest $(BIN)/python

test-newest: install  ## on the newest Python of this host
	.ci/versions newest $(BIN)/python

# Is the twin like a plane of this host? Ten minutes at most, on a machine that does little else.
parity: models  ## twin beside plane on this host: ten minutes
	$(BIN)/python -m benchmarks.parity

bench: install  ## all benchmarks: hours
	for file in $(filter-out benchmarks/gpu_check.py benchmarks/gpu_install.py benchmarks/parity.py benchmarks/fidelity.py benchmarks/soak.py benchmarks/host.py benchmarks/windows.py, $(wildcard benchmarks/*.py)); do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

# Hours, on a machine that does nothing else: beside Triton, Ray Serve and others, each from PyPI in an environment of its own.
peers: models  ## beside Triton, Ray Serve and others: hours
	$(BIN)/python -m benchmarks.peers all

# A quarter of an hour, then half an hour, on a machine that does nothing else: what faults cost, and what grows.
faults: install  ## what faults cost, and what grows: three quarters of an hour
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.soak

# Every parser of what others wrote, for so many minutes of processor time each.
FUZZ_MINUTES ?= 20
fuzz: fuzzing  ## every parser, FUZZ_MINUTES each
	$(BIN)/python -m fuzz --minutes $(FUZZ_MINUTES)

$(FUZZING): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

# One JSON object, kept in gpu-report.json: do the models run on the GPU, do they compute what a CPU does, how fast, and is the twin
# like such a plane. Up to 20 minutes; DEVICE_ASKED=cpu checks the check.
DEVICE_ASKED ?= cuda
gpu-check: models  ## do the models run on the GPU, and how fast
	$(BIN)/python -m benchmarks.gpu_check --device $(DEVICE_ASKED) --out gpu-report.json

# Does the extra for GPUs resolve, and does its ONNX Runtime install and answer where there is no CUDA? Needs the network.
gpu-install-check: install  ## does the extra for GPUs install
	$(BIN)/python -m benchmarks.gpu_install

# The deployment files as Docker Compose, kubectl and Kubernetes' schemas read them, without Docker or a cluster (Debian: docker-compose, kubernetes-client).
deploy-check: install  ## deployment files as their own tools read them
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[deploy]'
	$(BIN)/python deploy/check.py

clean:  ## remove .venv and what was built
	rm -rf $(VENV) demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
