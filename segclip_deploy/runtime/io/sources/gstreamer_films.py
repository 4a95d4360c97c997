"""Films that GStreamer decodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.sources.damage import is_cut_off
from segclip_deploy.runtime.io.sources.gstreamer_decoders import Decoder, decoding_pipeline
from segclip_deploy.runtime.io.sources.gstreamer_pipeline import GstPipeline
from segclip_deploy.runtime.io.sources.video import VideoFrame

__all__ = ["read_film"]


def read_film(path: Path, decoder: Decoder, promised: int | None) -> Iterator[VideoFrame]:
    """Every frame of a film that a decoder of choice gives.

    Args:
        path: of the film.
        decoder: of choice.
        promised: frames, by its header; None where that is not known.

    Raises:
        BadInput: it cannot be decoded, or not to its end; after all frames that could be.
        MissingDependency: GStreamer is not here.
    """
    pipeline = GstPipeline(decoding_pipeline(path, decoder), path)
    count, times = 0, [0.0]
    try:
        lasts = pipeline.lasts()
        for frame in pipeline.frames():
            yield frame
            count += 1
            if frame.seconds is not None:
                times = [times[-1], frame.seconds]
    finally:
        pipeline.close()
    covered, gap = times[-1], times[-1] - times[0]
    short = is_cut_off(
        count, promised or 0, covered=covered, lasts=lasts, gap=gap, alone=pipeline.alone
    )
    if short:
        raise BadInput(f"cut off: {count} frames in {covered:.1f} of {lasts:.1f} s", where=path)
