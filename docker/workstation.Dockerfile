# A workstation or server with an NVIDIA GPU: export, TensorRT, TensorRT-RTX. Not built in CI.
#   docker build -f docker/workstation.Dockerfile -t segclip-deploy .
#   docker run --rm --gpus all -v "$PWD":/work segclip-deploy doctor
# The base brings nvcc, with which PyCUDA is compiled; take the CUDA that the driver serves.
ARG BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04
FROM ${BASE}
# Versions are those of the base's distribution: a pinned one is gone at its next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir '/src[export,openvino,tensorrt,rtx]'
WORKDIR /work
ENTRYPOINT ["/venv/bin/segclip-deploy"]
