"""PyTorch behind the Backend contract: the reference every engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.export.graph import ConstantText, DeployGraph
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.inference.backend import Backend, TensorSpec
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE

__all__ = ["TorchBackend", "open_checkpoint", "torch_segmenter"]


class TorchBackend(Backend):
    """Runs a ``DeployGraph`` eagerly, in evaluation mode, where its tensors are.

    Args:
        graph: the module; put into evaluation mode.
        spec: the input size to report.
        classes: K.
        kind: which form of the model this is, for reports.
    """

    def __init__(
        self, graph: DeployGraph, spec: InputSpec, classes: int, kind: str = "eager"
    ) -> None:
        self._graph = graph.eval()
        self._device = next((tensor.device for tensor in graph.buffers()), torch.device("cpu"))
        where = "" if self._device.type == "cpu" else f" on {self._device.type}"
        self.name = f"PyTorch {torch.__version__} {kind}{where}"
        size = (spec.height, spec.width)
        small = (spec.height // LOGIT_STRIDE, spec.width // LOGIT_STRIDE)

        def tensor(name: str, sides: tuple[int, ...], dtype: type) -> TensorSpec:
            return TensorSpec(name, (spec.batch, *sides), np.dtype(dtype), spec.min_batch)

        self.inputs: tuple[TensorSpec, ...] = (tensor("image", (*size, 3), np.uint8),)
        outputs = {
            "labels": tensor("labels", size, np.uint8),
            "margin": tensor("margin", small, np.uint8),
            "logits": tensor("logits", (classes, *small), np.float32),
        }
        self.outputs = tuple(outputs[name] for name in graph.output_names)

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once."""
        with torch.inference_mode():
            results = self._graph(torch.from_numpy(arrays["image"]).to(self._device))
        return {n: r.cpu().numpy() for n, r in zip(self._graph.output_names, results, strict=True)}

    def close(self) -> None:
        """Nothing to release."""


def torch_segmenter(
    model: SegCLIP,
    bank: TextBank,
    vocabulary: Vocabulary,
    spec: InputSpec,
    *,
    logits: bool,
    overlap: int | None = None,
) -> Segmenter:
    """The unexported model in the runtime's own Segmenter, on the device where it is.

    Args:
        logits: blend windows by their logits; else each gives its centre, as in a bundle
            that was exported without ``--logits``.
    """
    network = ConstantText(model, bank).to(next(model.parameters()).device)
    graph = DeployGraph(network, model.spec.mean, model.spec.std, logits=logits)
    backend = TorchBackend(graph, spec, model.spec.classes)
    return Segmenter(backend, spec, vocabulary, overlap=overlap)


def open_checkpoint(
    path: Path, spec: InputSpec, *, overlap: int | None = None, device: str = "cpu"
) -> Segmenter:
    """A checkpoint in PyTorch, to compare engines with: labels only, as exported by default.

    Args:
        path: the checkpoint.
        spec: the input size.
        overlap: pixels that windows share; by default that of ``spec``, or a quarter.
        device: as PyTorch calls it.

    Raises:
        BadArtifact: the checkpoint cannot be used.
    """
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint).to(device)
    return torch_segmenter(
        model, checkpoint.bank, checkpoint.vocabulary, spec, logits=False, overlap=overlap
    )
