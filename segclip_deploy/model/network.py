"""The contract of a text-guided network, for networks other than SegCLIP."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.errors import BadInput
from segclip_deploy.model.segclip import SegCLIP

__all__ = ["Factory", "load_factory"]

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
        BadInput: it does not name anything that can be called.
    """
    if reference is None:
        return SegCLIP
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        raise BadInput("is not of the form package.module:function", where=f"--model {reference}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"cannot be imported ({error})", where=f"--model {reference}") from error
    if not callable(factory):
        raise BadInput("is not a function or class", where=f"--model {reference}")
    made: Factory = factory
    return made
