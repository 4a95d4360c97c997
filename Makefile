# `make demo`  runs the main job on the shipped example and says where to look.
# `make test`  lints, type-checks and tests.
# `make gstreamer`  as root or with sudo, on Debian or Ubuntu: GStreamer and PyGObject, for the tests that need them.
# `make test-long`  the tests that take minutes: families of timm, remedies that make artefacts, versions of TensorRT and ONNX Runtime,
#                   nvidia-modelopt, which it installs, wheel and sdist in empty environments of Python 3.10 to 3.13.
# `make docs`  builds the site of docs/ into out/site, strictly: a broken link or a missing docstring fails.
# `make benchmark`  measures the example against what else could fly; its tables are those of the README.
# `make gpu-check`  on a machine with an NVIDIA GPU: what `make test` has to skip, measured (docs/explanation/verified-on.md).
# `make gpu-kit`  what `make gpu-check KIT=FOLDER` takes to a machine without network.
# `make test-aarch64`  as root: the wheel in an emulated arm64 Debian, held against this machine.
# All make their own .venv first; it is made anew only when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test docs gstreamer test-long benchmark gpu-check gpu-kit test-aarch64 clean
.DELETE_ON_ERROR:

# ---- environments: the demo needs less than the tests

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[export,openvino]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,openvino,report,geo,cluster,video,recordings,telemetry,dev]'
	@touch $@ $(VENV)/demo.stamp

# PyCUDA for the driver without a GPU (tests/fakecuda): compiled once, into a folder that no program
# but those tests looks into.
$(VENV)/fakecuda.stamp: tests/fakecuda/build.py | $(VENV)/test.stamp
	$(BIN)/python -m tests.fakecuda.build $(VENV)/fakecuda
	@touch $@

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

# nvidia-modelopt, a second way to place INT8.
$(VENV)/quantize.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[quantize]'
	@touch $@

$(VENV)/benchmark.stamp: $(VENV)/quantize.stamp benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

# GStreamer from Debian, and what PyGObject is built with (docs/how-to/gstreamer.md).
GSTREAMER_PACKAGES = gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
  gstreamer1.0-plugins-ugly gstreamer1.0-libav gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 \
  gir1.2-gst-rtsp-server-1.0 libgirepository1.0-dev libcairo2-dev pkg-config
APT_GET = $(if $(filter-out 0,$(shell id -u)),sudo )env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300

$(VENV)/gstreamer.stamp: pyproject.toml | $(VENV)/test.stamp
	$(APT_GET) update
	$(APT_GET) install --yes --no-install-recommends $(GSTREAMER_PACKAGES) >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[gstreamer]'
	@touch $@

# ---- the jobs

demo: $(VENV)/demo.stamp
	$(BIN)/segclip-deploy export examples/dubai/model.safetensors -o out/demo/bundle
	$(BIN)/segclip-deploy run out/demo/bundle examples/dubai/images -o out/demo/labels
	$(BIN)/segclip-deploy evaluate out/demo/bundle examples/dubai
	@echo
	@echo "Look at out/demo/labels: NAME.overlay.png over the image, NAME.png with the labels."

# Two processes share the cores: threads of OpenMP that wait must not spin.
test: $(VENV)/test.stamp $(VENV)/fakecuda.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadfile -m 'not long and not alone'
	$(BIN)/pytest -m 'alone and not long'

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/site/check.py out/site
	@echo "Read it: $(PYTHON) -m http.server -d out/site"

gstreamer: $(VENV)/gstreamer.stamp

test-long: $(VENV)/quantize.stamp $(VENV)/docs.stamp
	$(BIN)/pytest -m long --durations=0

DATA ?= ../shared/data/dubai

benchmark: $(VENV)/benchmark.stamp
	$(BIN)/python benchmarks/peers.py $(DATA)

# On a Jetson: make gpu-check GPU_EXTRAS=jetson VENV=~/segclip (docs/how-to/jetson.md)
GPU_EXTRAS ?= tensorrt,rtx
CHECK = benchmarks/gpu_check.py --kit $(or $(KIT),out/gpu-kit) $(GPU_CHECK_FLAGS)
MAKE_KIT = $(BIN)/python benchmarks/gpu_kit.py $(or $(KIT),out/gpu-kit) $(if $(TILES),--tiles $(TILES))

ifeq ($(DRIVER),fake)
gpu-check: $(VENV)/fakecuda.stamp
	$(MAKE_KIT) --no-engines
	$(BIN)/python $(CHECK) --driver $(VENV)/fakecuda
else ifdef KIT
gpu-check:  # neither network nor pip, and the Python that is there
	$(PYTHON) $(CHECK)
else
gpu-check: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(GPU_EXTRAS)]'
	$(MAKE_KIT)
	$(BIN)/python $(CHECK)
endif

# GPU_PYTHON, to collect wheels for: of the same version as there. GPU_HAS: packages that are there already.
gpu-kit: $(VENV)/test.stamp
	$(MAKE_KIT) $(GPU_KIT_FLAGS) $(if $(GPU_PYTHON),--python $(GPU_PYTHON) --has $(GPU_HAS))

# AARCH64_ROOT: where the arm64 Debian lies, 1 GB; by default in ~/.cache/segclip-deploy/aarch64
test-aarch64: $(VENV)/test.stamp
	$(BIN)/python benchmarks/aarch64.py $(if $(AARCH64_ROOT),--root $(AARCH64_ROOT))

clean:
	rm -rf $(VENV) out
