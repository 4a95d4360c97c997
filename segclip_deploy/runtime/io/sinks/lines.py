"""The lines of ``areas.jsonl``."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import Any, BinaryIO

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes, stage_ms
from segclip_deploy.runtime.io.sources.naming import result_names

__all__ = ["LineFile", "describe_raster_result", "frame_line", "raster_line"]


class LineFile:
    """Lines to a file or pipe, each handed on at once; where one fails, no part of it stays.

    Args:
        stream: binary and unbuffered.
        name: for errors.
        anew: what is there already goes when the first line comes.
    """

    def __init__(self, stream: BinaryIO, name: str, *, anew: bool = False) -> None:
        self._stream, self.name, self._anew = stream, name, anew

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            BadInput: the process that reads the pipe has ended.
            OSError: it could not be written, and is not there in part.
        """
        data = memoryview(line.encode() + b"\n")
        written = 0
        try:
            if self._anew:
                self._stream.truncate(0)
                self._anew = False
            while written < len(data):
                written += self._stream.write(data[written:]) or 0
            self._stream.flush()
        except BrokenPipeError as error:
            raise BadInput("the process that reads the lines has ended", where=self.name) from error
        except OSError as error:
            with contextlib.suppress(OSError):  # a pipe
                self._stream.truncate(self._stream.tell() - written)
            raise OSError(error.errno, error.strerror, self.name) from error


def frame_line(result: FrameResult, times: WriteTimes) -> str:
    """The line of a frame, as docs/reference/lines.md describes it.

    Args:
        result: with or without labels.
        times: of writing its images, and its age after that.
    """
    shot, labelled = result.shot, result.labelled
    labels_name, _, margin_name = result_names(result.name)
    has_margin = labelled is not None and labelled.margin is not None
    line: dict[str, Any] = {
        "image": result.source,
        "index": shot.index,
        "time": shot.capture.time,
        "seconds": shot.seconds,
        "gps": asdict(shot.capture.position) if shot.capture.position else None,
        "attitude": asdict(shot.capture.attitude) if shot.capture.attitude else None,
        "labels": None if labelled is None else labels_name,
        "margin": margin_name if has_margin else None,
        "areas": None if labelled is None else labelled.areas(),
        "windows": 0 if labelled is None else labelled.windows,
        "age_ms": times.age_ms and round(times.age_ms, 3),
    }
    if result.health is not None:
        line["health"] = {**result.health.to_json(), "refused": result.refused}
    if shot.damaged:
        line["damaged"] = True
    if result.dropped is not None:
        line["dropped"] = result.dropped
    if result.deadline is not None:
        line["deadline"] = asdict(result.deadline)
    line["ms"] = {stage: round(ms, 3) for stage, ms in stage_ms(result, times).items()}
    return json.dumps(line, allow_nan=False)


def raster_line(result: RasterResult) -> str:
    """The line of a raster, as docs/how-to/rasters.md describes it."""
    return json.dumps(describe_raster_result(result), allow_nan=False)


def describe_raster_result(result: RasterResult) -> dict[str, Any]:
    """What the line of a raster says, as JSON."""
    labelled, seams = result.labelled, result.seams
    return {
        "image": result.source,
        "labels": f"{result.name}{labelled.labels.suffix}",
        "margin": None,
        "areas": labelled.areas,
        "windows": labelled.windows,
        "size": list(labelled.size),
        "model_size": list(labelled.model_size),
        "crs": labelled.crs,
        "pixel_m": labelled.pixel_m and [round(side, 6) for side in labelled.pixel_m],
        "bands": list(labelled.bands),
        "scale": labelled.scale and list(labelled.scale),
        "rows_kept": labelled.kept,
        "seconds": round(labelled.seconds, 3),
        "inferring": round(labelled.inferring, 3),
        "polygons": result.polygons and f"{result.name}{result.polygons.suffix}",
        "seams": seams and {"share": seams.share, "pixels": seams.pixels},
    }
