"""Miniature trees of the published datasets, as their archives unpack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.vocabulary import load_vocabulary

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image (H, W, 3), and its mask values (H, W)."""


def pairs(vocabulary: str, count: int, side: int = 128) -> Iterator[Pair]:
    """Noise that is coloured as its class is: a model can learn it."""
    words = load_vocabulary(vocabulary)
    values = np.array([entry.mask_value for entry in words.classes], np.uint8)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, len(values), (4, 4)).repeat(side // 4, 0).repeat(side // 4, 1)
        noise = rng.integers(0, 40, (side, side, 3))
        yield (words.palette[blocks] * 0.8 + noise).astype(np.uint8), values[blocks]


def colours(mask: NDArray[np.uint8], vocabulary: str) -> NDArray[np.uint8]:
    """Mask values as the publisher's colours."""
    table = np.zeros((256, 3), np.uint8)
    for entry in load_vocabulary(vocabulary).classes:
        table[entry.mask_value] = entry.colour
    return table[mask]


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def loveda(root: Path, found: Sequence[Pair]) -> Path:
    for index, (image, mask) in enumerate(found):
        split = ("Train", "Train", "Val")[index % 3]
        area = ("Urban", "Rural")[index % 2]
        _save(root / split / area / "images_png" / f"{index}.png", image)
        _save(root / split / area / "masks_png" / f"{index}.png", mask)
    _save(root / "Test" / "Urban" / "images_png" / "9.png", found[0][0][::-1].copy())
    return root


def uavid(root: Path, found: Sequence[Pair]) -> Path:
    for index, (image, mask) in enumerate(found):
        split = ("uavid_train", "uavid_train", "uavid_val")[index % 3]
        sequence = root / split / f"seq{index}"
        _save(sequence / "Images" / "000000.png", image)
        _save(sequence / "Labels" / "000000.png", colours(mask, "uavid"))
    _save(root / "uavid_test" / "seq21" / "Images" / "000000.png", found[0][0][::-1].copy())
    return root


def isaid(root: Path, found: Sequence[Pair]) -> Path:
    for index, (image, mask) in enumerate(found):
        folder = root / ("train", "train", "val")[index % 3]
        _save(folder / "images" / f"P{index:04}.png", image)
        drawn = colours(mask, "isaid")
        _save(folder / "Semantic_masks" / "images" / f"P{index:04}_instance_color_RGB.png", drawn)
        _save(folder / "Instance_masks" / "images" / f"P{index:04}_instance_id_RGB.png", drawn)
    return root


def mmseg(root: Path, found: Sequence[Pair]) -> Path:
    """As mmsegmentation's converter of iSAID writes it: two patches of each picture."""
    for index, (image, mask) in enumerate(found):
        split = ("train", "train", "val")[index % 3]
        half = image.shape[1] // 2
        for left in (0, half):
            name = f"P{index:04}_0_{half}_{left}_{left + half}"
            _save(root / "img_dir" / split / f"{name}.png", image[:, left : left + half])
            labels = mask[:, left : left + half]
            _save(root / "ann_dir" / split / f"{name}_instance_color_RGB.png", labels)
    return root


TREES: dict[str, tuple[str, Callable[[Path, Sequence[Pair]], Path]]] = {
    "loveda": ("loveda", loveda),
    "uavid": ("uavid", uavid),
    "isaid": ("isaid", isaid),
    "mmseg": ("isaid", mmseg),
}
"""By layout: the vocabulary, and what writes a tree."""
