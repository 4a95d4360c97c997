"""Films made in code, of frames that are told apart by their grey."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def textured(number: int) -> NDArray[np.uint8]:
    """A frame (96, 128, 3) of blocks that move: damage shows, and no packet is empty."""
    base = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).repeat(16, 0).repeat(16, 1)
    return np.roll(base, 4 * number, 1).astype(np.uint8)


def make_film(
    path: Path,
    frames: int,
    *,
    codec: str = "libx264",
    container: str | None = None,
    first: int = 0,
    pixels: NDArray[np.uint8] | None = None,
    created: str | None = None,
    **options: str,
) -> Path:
    """A film of 25 frames a second.

    Args:
        first: packets before this one are left out, as where a film begins in its midst.
        pixels: of every frame, in place of ``textured``.
        created: when, as the container says it.
        options: of the encoder.
    """
    with av.open(str(path), "w", format=container) as film:
        if created is not None:
            film.metadata["creation_time"] = created
        stream = film.add_stream(codec, rate=25, options=options)
        height, width = (textured(0) if pixels is None else pixels).shape[:2]
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.gop_size = int(options.get("g", 25))
        packets = []
        for number in range(frames):
            shown = textured(number) if pixels is None else pixels
            frame = av.VideoFrame.from_ndarray(shown.copy(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        film.mux(packets[first:])
    return path


def packets_of(path: Path) -> list[tuple[int, int, bool]]:
    """(place in the file, bytes, key) of each packet, in order of decoding."""
    with av.open(str(path)) as film:
        found = film.demux(film.streams.video[0])
        return [(p.pos, p.size, p.is_keyframe) for p in found if p.size]


def blank(path: Path, start: int, count: int) -> None:
    """Set bytes of a file to zero."""
    data = bytearray(path.read_bytes())
    data[start : start + count] = bytes(count)
    path.write_bytes(data)
