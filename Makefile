# `make demo`  runs the main job on the shipped example and says where to look.
# `make test`  lints, type-checks and tests.
# `make test-long`  the tests that take minutes: every family of timm, exported.
# `make benchmark`  measures the example against what else could fly; its tables are those of the README.
# `make gpu-check`  on a machine with an NVIDIA GPU: what `make test` has to skip, measured.
# `make test-aarch64`  as root: the wheel in an emulated arm64 Debian, held against this machine.
# All make their own .venv first; it is made anew only when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long benchmark gpu-check test-aarch64 clean
.DELETE_ON_ERROR:

# ---- environments: the demo needs less than the tests

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[export,openvino]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,openvino,report,geo,cluster,video,dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/benchmark.stamp: $(VENV)/test.stamp benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

# ---- the jobs

demo: $(VENV)/demo.stamp
	$(BIN)/segclip-deploy export examples/dubai/model.safetensors -o out/demo/bundle
	$(BIN)/segclip-deploy run out/demo/bundle examples/dubai/images -o out/demo/labels
	$(BIN)/segclip-deploy evaluate out/demo/bundle examples/dubai
	@echo
	@echo "Look at out/demo/labels: NAME.overlay.png over the image, NAME.png with the labels."

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-long: $(VENV)/test.stamp
	$(BIN)/pytest -m long --durations=0

DATA ?= ../shared/data/dubai

benchmark: $(VENV)/benchmark.stamp
	$(BIN)/python benchmarks/peers.py $(DATA)

# On a Jetson: make gpu-check GPU_EXTRAS=jetson VENV=~/segclip (docs/jetson.md)
GPU_EXTRAS ?= tensorrt,rtx

gpu-check: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(GPU_EXTRAS)]'
	$(BIN)/python benchmarks/gpu_check.py $(if $(TILES),--tiles $(TILES))

# AARCH64_ROOT: where the arm64 Debian lies, 1 GB; by default in ~/.cache/segclip-deploy/aarch64
test-aarch64: $(VENV)/test.stamp
	$(BIN)/python benchmarks/aarch64.py $(if $(AARCH64_ROOT),--root $(AARCH64_ROOT))

clean:
	rm -rf $(VENV) out
