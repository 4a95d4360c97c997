"""INT8 in PyTorch: rounding where ``quantization.placement`` rounds, with gradients straight through.

Only operators whose weight enters the graph as it is are rounded: convolutions and linear layers
of the encoder and the pixel decoder. Those of CFF and refiner are folded from several weights
and the text when a bundle is exported, so there is no weight here that could be rounded for them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.calibration.table import Range
from segclip_deploy.export.blocks import block_of_module
from segclip_deploy.quantization.placement import is_wide
from segclip_deploy.quantization.qdq import scale_of, storable

__all__ = ["FakeQuant", "observe", "operators_of"]

T = TypeVar("T")

_PLAIN = ("encoder.", "decoder.laterals.", "decoder.convs.")
_OPERATORS = (torch.conv2d, F.linear)
_SUMS = (
    torch.add,
    Tensor.add,
    Tensor.add_,
    Tensor.__add__,
    Tensor.__radd__,
    Tensor.__iadd__,
)


def operators_of(model: nn.Module) -> dict[str, str]:
    """Module path → block of every operator that can be INT8 and keeps its own weight.

    What ``nn.MultiheadAttention`` projects is not among them: it runs as one fused operator.
    """
    fused = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    found = {}
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)) or id(module) in fused:
            continue
        if not path.startswith(_PLAIN):
            continue
        shape, groups = module.weight.shape, getattr(module, "groups", 1)
        if is_wide(shape, 0, depthwise=groups == shape[0] and shape[1] == 1):
            found[path] = block_of_module(path)
    return found


class _Placed(TorchFunctionMode):
    """Finds the tensors that a placement rounds, while a model runs inside ``with``.

    What ``place`` reads off the graph is seen here as it happens: an operator by its weight, and a
    sum of which one side comes from an operator (by way of BatchNorm, which is folded into it).
    A tensor that several read is rounded once.
    """

    def __init__(self, model: nn.Module, plan: PrecisionPlan) -> None:
        super().__init__()
        self.scheme = plan.scheme
        self.paths = {
            id(model.get_submodule(path).weight): path
            for path, block in operators_of(model).items()
            if plan.blocks[block] == "int8"
        }
        self.turns: dict[str, int] = {}

    @abstractmethod
    def _round(self, name: str, values: Tensor) -> Tensor:
        """What is read instead of an activation."""

    @abstractmethod
    def _round_weight(self, values: Tensor) -> Tensor:
        """What is read instead of a weight, output channels first."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = None
        if func in _OPERATORS and (made := self.paths.get(id(args[1]))):
            args = (self._read(made, args[0]), self._round_weight(args[1]), *args[2:])
            self.turns.setdefault(made, len(self.turns))
        elif func is F.batch_norm:
            made = _made_by(args[0])
        elif func in _SUMS and isinstance(args[1], Tensor):
            args = (*self._sides(args[0], args[1]), *args[2:])
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):  # in place, it is a tensor that had other values before
            resized = (
                (args[0], partial(func, *args[1:], **kwargs)) if func is F.interpolate else None
            )
            result.__dict__.update(made_by=made, read_as=None, resized=resized)
        return result

    def _read(self, name: str, values: Tensor) -> Tensor:
        if (known := values.__dict__.get("read_as")) is None:
            known = values.__dict__["read_as"] = self._round(name, values)
        return known

    def _sides(self, *sides: Tensor) -> list[Tensor]:
        made = [_made_by(side) for side in sides]
        if made == [None, None]:
            return list(sides)
        last = max((one for one in made if one), key=self.turns.__getitem__)
        return [
            self._read_addend(f"{last}+{index}", side)
            if self.scheme.rules.both_addends or made[index] != last
            else side
            for index, side in enumerate(sides)
        ]

    def _read_addend(self, name: str, values: Tensor) -> Tensor:
        """A side of a sum, rounded; where it is a resized tensor, that is rounded before, too, if the scheme says so."""
        resized = values.__dict__.get("resized")
        if resized and self.scheme.rules.resizes:
            small, resize = resized
            values = resize(self._read(f"{name}, before", small))
        return self._read(name, values)


def _made_by(values: Tensor) -> str | None:
    """The operator that a tensor comes from."""
    made: str | None = values.__dict__.get("made_by")
    return made


class _Observer(_Placed):
    """Counts what would be rounded."""

    def __init__(self, model: nn.Module, plan: PrecisionPlan) -> None:
        super().__init__(model, plan)
        self.seen: dict[str, Histogram] = {}

    def _round(self, name: str, values: Tensor) -> Tensor:
        self.seen.setdefault(name, Histogram()).add(values.cpu().numpy())
        return values

    def _round_weight(self, values: Tensor) -> Tensor:
        return values


def observe(
    model: nn.Module, plan: PrecisionPlan, run: Callable[[T], object], inputs: Iterable[T]
) -> dict[str, Range]:
    """Percentile ranges of every activation that a plan rounds, as ``calibrate`` takes them.

    Args:
        model: in FP32.
        plan: whose INT8 blocks count.
        run: puts one input through the model.
        inputs: what to measure on.
    """
    observer = _Observer(model, plan)
    with torch.inference_mode(), observer:
        for one in inputs:
            run(one)
    if unseen := set(observer.paths.values()) - set(observer.turns):
        raise AssertionError(f"{sorted(unseen)} never ran as an operator: it would not be rounded")
    return {name: METHODS["percentile"](seen) for name, seen in observer.seen.items()}


class FakeQuant(_Placed):
    """Runs a model as its INT8 form computes: activations per tensor, weights per output channel.

    Rounding passes gradients on, clipping stops them (Jacob et al., CVPR 2018). BatchNorm must be
    in evaluation mode: its factor of each channel then commutes with the rounding of the weight,
    as the scale of a channel takes it up.

    Args:
        model: the very module that runs.
        plan: whose INT8 blocks are rounded.
        ranges: from ``observe``.
    """

    def __init__(self, model: nn.Module, plan: PrecisionPlan, ranges: Mapping[str, Range]) -> None:
        super().__init__(model, plan)
        self.scales = {name: _scalars(span, plan.scheme) for name, span in ranges.items()}

    def _round(self, name: str, values: Tensor) -> Tensor:
        scale, zero = self.scales[name]
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, *self.scheme.rules.levels)

    def _round_weight(self, values: Tensor) -> Tensor:
        top = self.scheme.rules.weight_limit
        scale = storable(
            (values.detach().flatten(1).abs().amax(1) / top).cpu().numpy(), self.scheme
        )
        scales = torch.from_numpy(scale).to(values.device)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(values, scales, zeros, 0, -top, top)


def _scalars(span: Range, scheme: Scheme) -> tuple[float, int]:
    scale, zero = scale_of(span, scheme)
    return float(scale), int(zero)
