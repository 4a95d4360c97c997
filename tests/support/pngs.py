"""PNG files written sample by sample, of depths that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Colour types of the PNG specification, 11.2.2."""


def png(samples: NDArray[Any], depth: int, colour: int = GREY) -> bytes:
    """A PNG of (H, W) or (H, W, C) samples of 1, 2, 4, 8 or 16 bits, without a filter.

    A palette is of shuffled colours, so that an index is none of its own colour's channels.
    """
    height, width = samples.shape[:2]
    flat = samples.reshape(height, -1).astype(">u2" if depth == 16 else np.uint8)
    if depth < 8:
        bits = np.unpackbits(flat[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
        flat = np.packbits(bits, axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in flat)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = np.random.default_rng(5).permutation(768).astype(np.uint8)[: 3 * 2 ** min(depth, 8)]
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", palette.tobytes()) if colour == PALETTE else b"",
            _chunk(b"IDAT", zlib.compress(rows)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check
