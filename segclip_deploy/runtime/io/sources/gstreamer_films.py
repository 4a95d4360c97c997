"""Films that GStreamer decodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segclip_deploy.errors import BadInput
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
    count = 0
    try:
        for count, frame in enumerate(pipeline.frames(), start=1):  # noqa: B007 (used below)
            yield frame
    finally:
        pipeline.close()
    if promised is not None and count < promised:
        raise BadInput(f"cut off: {count} of {promised} frames", where=path)
