"""The contract of a text-guided network, for networks other than SegCLIP."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.errors import BadInput
from segclip_deploy.model.encoders import STRIDES, TimmEncoder
from segclip_deploy.model.failures import first_line, one_line_for
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE

__all__ = ["Factory", "load_factory", "try_network"]

Factory = Callable[[ModelSpec], nn.Module]
"""A spec → a network with ``forward(image, classes, texts) → logits``.

Normalised image (B, 3, H, W), class embeddings (K, D_t) and real texts (K, M, D_t) of unit
length → logits (B, K, H/4, W/4). It may have ``fold(bank) → nn.Module``, whose ``forward(image)``
gives the same logits with that ``TextBank`` inside; without it the text is plain constants.
"""


def load_factory(reference: str | None) -> Factory:
    """The factory that ``package.module:function`` names, looked for in the working directory too.

    Args:
        reference: None stands for SegCLIP.

    Raises:
        BadInput: it does not name anything that can be called. So does the factory, in one line
            with the user's own file and line, where what it calls fails.
    """
    if reference is None:
        return SegCLIP
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        raise BadInput("is not of the form package.module:function", where=f"--model {reference}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    where = f"--model {reference}"
    with one_line_for("importing it fails", where=where):
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise BadInput(f"cannot be imported ({error})", where=where) from error
    if not callable(factory):
        raise BadInput("is not a function or class", where=where)

    def make(spec: ModelSpec) -> nn.Module:
        with one_line_for("making the network fails", where=where):
            network = factory(spec)
        if not isinstance(network, nn.Module):
            raise BadInput(f"makes a {type(network).__name__}, not a torch.nn.Module", where=where)
        return network

    return make


def try_network(network: nn.Module, bank: TextBank, height: int, width: int, *, where: str) -> None:
    """Run a network once on a black image, before any work is spent on it.

    Args:
        network: of the contract that ``Factory`` gives.
        bank: the text.
        height, width: of the image.
        where: what was given, for messages.

    Raises:
        BadInput: it fails, or its logits are not (1, K, H/4, W/4) in floating point.
    """
    encoder = getattr(network, "encoder", None)
    image = torch.zeros(1, 3, height, width)
    texts = torch.from_numpy(bank.classes), torch.from_numpy(bank.texts)
    was_training = network.training
    network.eval()
    try:
        if isinstance(encoder, TimmEncoder):
            _try_encoder(encoder, image)
        with one_line_for("its forward fails", where=where), torch.inference_mode():
            logits = network(image, *texts)
    finally:
        network.train(was_training)
    expected = (1, len(bank.classes), height // LOGIT_STRIDE, width // LOGIT_STRIDE)
    if not isinstance(logits, Tensor):
        raise BadInput(f"forward returns a {type(logits).__name__}, not logits", where=where)
    if tuple(logits.shape) != expected or not logits.is_floating_point():
        raise BadInput(
            f"forward gives {logits.dtype} {tuple(logits.shape)} of an image of {height}×{width} "
            f"and {expected[1]} classes, not floating point {expected}",
            where=where,
            fix="return logits at a quarter of the image's size, one map a class",
        )


def _try_encoder(encoder: TimmEncoder, image: Tensor) -> None:
    """Raise one line where a timm model does not take images of such a size."""
    try:
        with torch.inference_mode():
            encoder(image)
    except Exception as error:  # its models share no class of errors
        own = isinstance(error, BadInput)  # its maps are of no use at any size
        fix = "choose another encoder"
        if not own and (size := encoder.made_for) and not any(side % STRIDES[-1] for side in size):
            fix += f", or images of the size it was made for: {'x'.join(map(str, size))}"
        raise BadInput(
            f"takes no images of {'x'.join(map(str, image.shape[2:]))} "
            f"({error.what if isinstance(error, BadInput) else first_line(error)})",
            where=f"encoder {encoder.name}",
            fix=fix,
        ) from error
