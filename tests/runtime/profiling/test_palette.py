"""Colours that stand together are told apart by colour-blind readers, and texts stand out."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from segclip_deploy.runtime.profiling import palette
from segclip_deploy.tradeoff.plots import LOOKS
from tests.conftest import ROOT

PACKAGE = ROOT / "segclip_deploy"
LEAST_DISTANCE = 15
"""In CIE Lab, where 2.3 is just noticeable. Of the colours before Okabe & Ito's two were at 8.8."""

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE TVCG 15(6), 2009; severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> NDArray[np.float64]:
    """Of sRGB, IEC 61966-2-1."""
    values = np.array(list(bytes.fromhex(colour[1:]))) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE 1976 L*a*b* of linear RGB, white D65."""
    ratio = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(
    "together",
    [
        [colour for colour, _ in LOOKS.values()],
        list(palette.STAGE_COLOURS.values()),
        list(palette.MACHINE_COLOURS),
        [palette.BLUE, palette.ORANGE, palette.PURPLE],  # frames, watts, temperature
    ],
    ids=["precisions", "stages", "machines", "course"],
)
def test_colours_that_stand_together_are_told_apart(together: list[str], vision: str) -> None:
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in together]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= LEAST_DISTANCE


def contrast(colour: str, ground: str = "#ffffff") -> float:
    """Of text on its ground, WCAG 2.1."""
    dark, light = sorted(float(XYZ[1] @ linear(one)) for one in (colour, ground))
    return (light + 0.05) / (dark + 0.05)


def test_texts_of_pictures_and_pages_stand_out() -> None:
    pages = "".join(path.read_text() for path in (PACKAGE / "tradeoff").glob("*.html"))
    found = set(re.findall(r"[ ;{]color: (#[0-9a-f]{6})", pages))
    grounds = set(re.findall(r"background: (#[0-9a-f]{6})", pages)) | {"#ffffff"}
    assert len(found) >= 3
    for colour in {*found, palette.INK, palette.MUTED}:
        assert min(contrast(colour, ground) for ground in grounds) >= 4.5, colour


def test_pictures_take_their_colours_from_one_place() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "palette.py":
            assert not re.findall(r'"#[0-9a-f]{6}"', path.read_text()), path
