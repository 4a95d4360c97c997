"""From what an appsink gives to frames: pixels, turned as players show them, and when they were taken."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.pixel_formats import Colours, PixelFormat, PixelLayout, to_rgb
from segclip_deploy.runtime.io.sources.gstreamer_library import GStreamer
from segclip_deploy.runtime.io.sources.gstreamer_zero_copy import mapped
from segclip_deploy.runtime.io.sources.rotation import Rotation
from segclip_deploy.runtime.io.sources.video import MOST_FRAME_PIXELS

__all__ = ["layout_of", "pixels_of", "seconds_of", "taken_at", "turn_of"]

_MATRICES = {"bt601": "601", "bt709": "709", "bt2020": "2020", "smpte240m": "240m"}
_FULL, _LIMITED = 1, 2  # GST_VIDEO_COLOR_RANGE_0_255, GST_VIDEO_COLOR_RANGE_16_235

# Values of the tag "image-orientation": turned clockwise, and mirrored before that.
_TURNS = {
    "rotate-0": Rotation(),
    "rotate-90": Rotation(transposed=True, mirrored=True),
    "rotate-180": Rotation(upside_down=True, mirrored=True),
    "rotate-270": Rotation(transposed=True, upside_down=True),
    "flip-rotate-0": Rotation(mirrored=True),
    "flip-rotate-90": Rotation(transposed=True, upside_down=True, mirrored=True),
    "flip-rotate-180": Rotation(upside_down=True),
    "flip-rotate-270": Rotation(transposed=True),
}


def pixels_of(modules: GStreamer, sample: Any) -> NDArray[np.uint8]:
    """Convert a ``Gst.Sample`` where it lies: (H, W, 3) uint8 RGB, the only copy.

    Raises:
        BadInput: pixels that are not understood, or too many.
    """
    layout = layout_of(modules, sample)
    with mapped(sample.get_buffer()) as data:
        return to_rgb(data, layout)


def layout_of(modules: GStreamer, sample: Any) -> PixelLayout:
    """Where the pixels of a sample lie: by its buffer where that says so, otherwise by its caps.

    Raises:
        BadInput: a matrix that is not known, or more pixels than images may have.
    """
    video = modules.GstVideo
    info = video.VideoInfo.new_from_caps(sample.get_caps())
    if info.width * info.height > MOST_FRAME_PIXELS:
        raise BadInput(f"frames of over {MOST_FRAME_PIXELS} pixels")
    meta = video.buffer_get_video_meta(sample.get_buffer())
    place, planes = meta or info, info.finfo.n_planes
    return PixelLayout(
        PixelFormat(info.finfo.name),
        info.width,
        info.height,
        tuple(place.stride[:planes]),
        tuple(place.offset[:planes]),
        _colours(video, info),
    )


def _colours(video: Any, info: Any) -> Colours:
    """As the caps say; what they leave out GStreamer has filled in, by the format and the lines."""
    matrix, span = info.colorimetry.matrix.value_nick, int(info.colorimetry.range)
    if info.finfo.flags & video.VideoFormatFlags.RGB:
        return Colours("601", full_range=span != _LIMITED)
    return Colours(_MATRICES.get(matrix, matrix), full_range=span == _FULL)


def turn_of(modules: GStreamer, tags: Any) -> Rotation | None:
    """How a ``Gst.TagList`` says that players turn the frames; None where it does not say."""
    found, turn = tags.get_string(modules.Gst.TAG_IMAGE_ORIENTATION)
    return _TURNS.get(turn) if found else None


def seconds_of(modules: GStreamer, sample: Any) -> float | None:
    """The time of a sample in its stream."""
    gst, pts = modules.Gst, sample.get_buffer().pts
    if pts == gst.CLOCK_TIME_NONE:
        return None
    at = sample.get_segment().to_stream_time(gst.Format.TIME, pts)
    return None if at == gst.CLOCK_TIME_NONE else at / gst.SECOND


def taken_at(modules: GStreamer, pipeline: Any, sample: Any) -> float | None:
    """When a live pipeline's sample was taken, as ``time.perf_counter()``; None where it does not say.

    A source stamps its buffers with the pipeline's running time. Running time plus the pipeline's
    base time is the time of its clock; that clock's time now, less that, is the sample's age.
    """
    gst, pts, clock = modules.Gst, sample.get_buffer().pts, pipeline.get_clock()
    if clock is None or pts == gst.CLOCK_TIME_NONE:
        return None
    running = sample.get_segment().to_running_time(gst.Format.TIME, pts)
    if running == gst.CLOCK_TIME_NONE:
        return None
    age = (clock.get_time() - pipeline.get_base_time() - running) / gst.SECOND
    return time.perf_counter() - age if age >= 0 else None  # not by a clock that runs ahead
