"""The colours of all pictures: those of Okabe & Ito, which colour-blind readers can tell apart.

M. Okabe, K. Ito, Color Universal Design, 2008. Its yellow is for dark pictures only: it is hard to see on white. A test
simulates three kinds of colour blindness on every set of colours that stand together.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "LINE",
    "MACHINE_COLOURS",
    "MUTED",
    "ORANGE",
    "PALE",
    "PURPLE",
    "SKY",
    "STAGE_COLOURS",
    "VERMILION",
    "YELLOW",
]

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, YELLOW = "#56b4e9", "#e69f00", "#f0e442"
INK, MUTED = "#212529", "#495057"
"""Of text, on white: its contrast is above 7 to 1."""
LINE, PALE = "#868e96", "#ced4da"
"""Of lines and areas that mean little by themselves."""

STAGE_COLOURS: Mapping[str, str] = {
    "read": PALE,
    "prepare": SKY,
    "copy_in": GREEN,
    "infer": BLUE,
    "copy_out": PURPLE,
    "postprocess": ORANGE,
    "write": MUTED,
}
"""By stage of a frame, in the same colours wherever stages are drawn."""

MACHINE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, "#000000")
"""Of what has no order, such as machines."""
