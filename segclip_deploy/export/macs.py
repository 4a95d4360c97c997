"""Multiply-accumulates of text attention, plain and folded: what decides where folding pays."""

from __future__ import annotations

from segclip_deploy.artifacts.bundle_record import BlockMacs
from segclip_deploy.artifacts.model_spec import ModelSpec

__all__ = ["folding_table", "fusion_macs", "refiner_macs"]


def fusion_macs(spec: ModelSpec, pixels: int, block: str = "cff") -> BlockMacs:
    """A CFF level over N ``pixels``: both directions, its LayerNorm left out on both sides.

    Plain, each direction projects every pixel twice (2 C²) and multiplies it twice with K
    vectors. Folded, each multiplies it with h·K vectors, twice; the softmax over classes is
    summed by an h·K × h·K convolution.
    """
    width, heads, classes = spec.width, spec.heads, spec.classes
    rows = heads * classes
    plain = pixels * (4 * width**2 + 4 * classes * width) + classes * width**2
    folded = pixels * (4 * rows * width + rows**2) + rows * width**2
    return BlockMacs(block, plain, folded)


def refiner_macs(width: int, heads: int, classes: int, texts: int) -> BlockMacs:
    """The query refiner: K queries look at ``texts`` = K·M constant sentences."""
    plain = classes * (2 * width**2 + 2 * texts * width)
    return BlockMacs("refiner", plain, classes * 2 * heads * texts * width)


def folding_table(spec: ModelSpec, height: int, width: int, texts: int) -> list[BlockMacs]:
    """Every block that text is folded into, for an image of ``height`` × ``width``."""
    table = [
        fusion_macs(spec, (height // s) * (width // s), f"cff.{s}")
        for s in sorted(spec.cff_strides)
    ]
    if spec.refine:
        table.append(refiner_macs(spec.width, spec.heads, spec.classes, texts))
    return table
