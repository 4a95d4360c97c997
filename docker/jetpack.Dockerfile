# A Jetson with JetPack 6: what flies. Build it on the Jetson. Not built in CI.
#   docker build -f docker/jetpack.Dockerfile -t segclip-deploy .
#   docker run --rm --runtime nvidia -v "$PWD":/work segclip-deploy doctor
# The base must be of the JetPack that runs on the board: engines belong to its TensorRT.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
# Versions are those of the base's distribution: a pinned one is gone at its next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv python3-libnvinfer \
    && rm -rf /var/lib/apt/lists/*
# PyCUDA is compiled, and finds CUDA by nvcc.
ENV PATH=/usr/local/cuda/bin:${PATH}
COPY . /src
RUN python3 -m venv --system-site-packages /venv \
    && /venv/bin/pip install --no-cache-dir '/src[jetson]'
WORKDIR /work
ENTRYPOINT ["/venv/bin/segclip-deploy"]
