"""ModelSpec: the few numbers that rebuild a SegCLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.records import Record, convert
from segclip_deploy.errors import BadInput

__all__ = ["ModelSpec", "load_spec"]


class ModelSpec(Record, frozen=True):
    """What it takes to rebuild the module, apart from its weights.

    Attributes:
        classes: K.
        text_width: D_t, width of the CLIP text embeddings.
        encoder: ``timm:<name>`` or ``open_clip:<model>``.
        width: C, the working width.
        heads: attention heads; divides ``width``.
        cff_strides: where Cross-Modal Feature Fusion sits, out of 8, 16, 32.
        refine: whether ambiguous queries look at the real texts.
        mean, std: per-channel normalisation of RGB in 0–1.
        channels: input and output channels of the layers that ``compact`` made smaller, by module path. Of
            a self-attention: its width, and that of all its heads together. Other layers are the encoder's.

    Raises:
        BadInput: a value is out of range.
    """

    classes: int
    text_width: int
    encoder: str = "timm:tf_efficientnet_lite0"
    width: int = 64
    heads: int = 4
    cff_strides: tuple[int, ...] = (8, 16, 32)
    refine: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: Mapping[str, tuple[int, int]] = {}

    def __post_init__(self) -> None:
        problems = {
            "classes outside 2–255": not 2 <= self.classes <= 255,
            "width outside 1–8192": not 1 <= self.width <= 8192,
            "text_width outside 1–8192": not 1 <= self.text_width <= 8192,
            "width is no multiple of heads": self.heads < 1 or self.width % self.heads != 0,
            "cff_strides outside 8, 16, 32": not set(self.cff_strides) <= {8, 16, 32},
            "encoder is neither timm:NAME nor open_clip:NAME": not self.encoder.startswith(
                ("timm:", "open_clip:")
            ),
            "mean and std are not three numbers each": not len(self.mean) == len(self.std) == 3,
            "std not positive": not min(self.std, default=0) > 0,
            "channels below 1": any(min(counts) < 1 for counts in self.channels.values()),
        }
        found = [problem for problem, present in problems.items() if present]
        if found:
            raise BadInput(f"not a valid model spec: {', '.join(found)}")

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Rebuild from parsed JSON or YAML.

        Raises:
            BadInput: a key is missing or unknown, or a value is of another kind or out of range.
        """
        return convert(data, cls, noun="a valid model spec")


def load_spec(path: Path) -> ModelSpec:
    """Read a spec from YAML or JSON.

    Raises:
        BadInput: unreadable, or not a valid spec.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"not a readable spec ({error})", where=path) from error
    if not isinstance(data, Mapping):
        raise BadInput("not a mapping of names to values", where=path)
    try:
        return ModelSpec.from_mapping(data)
    except BadInput as error:
        raise BadInput(error.what, where=path) from error
