"""How players turn a video: its display matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rotation", "rotation_of"]


@dataclass(frozen=True)
class Rotation:
    """What brings a frame's pixels to what a player shows.

    Attributes:
        transposed: rows and columns change places, first of all.
        upside_down, mirrored: the order of rows and of columns is turned round.
        note: what is said of a matrix that is none of these; such a frame is left as it is stored.
    """

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False
    note: str | None = None

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn pixels (H, W, 3); a view, or contiguous where anything changes."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.upside_down:
            pixels = pixels[::-1]
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


def rotation_of(frame: Any) -> Rotation:
    """How a frame of PyAV is to be turned.

    ISO/IEC 14496-12 gives the matrix (a b u, c d v, x y w): a stored pixel (p, q) is shown at
    (a·p + c·q + x, b·p + d·q + y), with p, x to the right and q, y down.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Rotation()
    a, b, _, c, d = np.frombuffer(bytes(data)[:20], np.int32).tolist()
    size = max(map(abs, (a, b, c, d)))
    aligned, crossed = not (b or c) and abs(a) == abs(d), not (a or d) and abs(b) == abs(c)
    if not size or not (aligned or crossed):
        return Rotation(note="its metadata turn it by an odd angle; labels are as it is stored")
    if aligned:
        return Rotation(upside_down=d < 0, mirrored=a < 0)
    # Shown x is c·q, shown y is b·p.
    return Rotation(transposed=True, upside_down=b < 0, mirrored=c < 0)
