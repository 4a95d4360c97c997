"""What a sink is, what it takes, and how several are used at once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol

from PIL import Image

from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.runtime.inference.health import FrameHealth
from segclip_deploy.runtime.inference.label_map import LabelMap
from segclip_deploy.runtime.io.raster.seams import SeamScore
from segclip_deploy.runtime.io.raster.segment import LabelledRaster
from segclip_deploy.runtime.io.sources.base import Shot

__all__ = [
    "DeadlineResult",
    "FanOut",
    "FrameResult",
    "RasterResult",
    "Sink",
    "WriteTimes",
    "stage_ms",
]


@dataclass(frozen=True)
class DeadlineResult:
    """How a frame stood to its deadline.

    Attributes:
        ms: the deadline.
        action: how much of the frame was labelled, an ``Action`` of ``streaming.deadline``.
        took_ms: until the labels were there.
        met: whether there is a label map, in time.
    """

    ms: float
    action: str
    took_ms: float
    met: bool


@dataclass(frozen=True)
class FrameResult:
    """A frame, and what the model says of it.

    Attributes:
        shot: the frame, and where it came from.
        labelled: its label map; None where the deadline skipped it, or its health was refused.
        vocabulary: names and colours of the labels.
        deadline: of a run that has one.
        dropped: frames of a live source that were dropped so far; None of files, which lose none.
        health: of the frame; None where nobody looked.
        refused: it was not labelled because of its health.
    """

    shot: Shot
    labelled: LabelMap | None
    vocabulary: Vocabulary
    deadline: DeadlineResult | None = None
    dropped: int | None = None
    health: FrameHealth | None = None
    refused: bool = False

    @property
    def source(self) -> str:
        """The file or camera it came from."""
        return self.shot.frame.source

    @property
    def name(self) -> str:
        """Name of its results: a path without suffix, with forward slashes."""
        return self.shot.name

    @cached_property
    def overlay(self) -> Image.Image | None:
        """The frame under its classes' colours, drawn once for all sinks; None without labels."""
        return None if self.labelled is None else self.labelled.overlay()


@dataclass(frozen=True)
class RasterResult:
    """A georeferenced raster, and what the model says of it.

    Attributes:
        source: the raster, as the user named it.
        name: of its results: a path without suffix, with forward slashes.
        labelled: its label map, which is too large to be held: a finished file.
        polygons: the GeoJSON of the label map, if one was asked for.
        seams: how well windows join, if that was asked for.
    """

    source: str
    name: str
    labelled: LabelledRaster
    polygons: Path | None = None
    seams: SeamScore | None = None


@dataclass(frozen=True)
class WriteTimes:
    """What was measured of writing a result.

    Attributes:
        write_ms: encoding and writing.
        age_ms: of the frame when it was written, since it was decoded; None of a raster.
    """

    write_ms: float
    age_ms: float | None = None


class Sink(Protocol):
    """Where results go: a folder, a video, a topic.

    A context manager: what it opens when it is entered is closed however the body ends. Results
    come in their order, from one thread at a time. A sink ignores the kinds that are not for it.
    """

    def __enter__(self) -> object:
        """Open what it writes to.

        Raises:
            OSError: it cannot be opened.
        """
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; what is not whole is removed."""
        ...

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Take a result; when this returns, it is written.

        Raises:
            BadInput: a result that cannot be written there.
            OSError: it could not be written, and is not there in part.
        """
        ...


class FanOut:
    """Gives each result to several sinks, one after another.

    An error of one ends the writing: those after it do not get that result. All are closed.

    Args:
        sinks: in the order in which they are entered and written to.
    """

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._opened = ExitStack()

    def __enter__(self) -> FanOut:
        with ExitStack() as opened:  # closes those that are open where one does not open
            for sink in self._sinks:
                opened.enter_context(sink)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Write to all; the times add up, and the age is that in the last."""
        times = [sink.write(result) for sink in self._sinks]
        ages = [taken.age_ms for taken in times if taken.age_ms is not None]
        return WriteTimes(sum(taken.write_ms for taken in times), max(ages, default=None))


def stage_ms(result: FrameResult, times: WriteTimes) -> dict[str, float]:
    """Milliseconds of each stage of a frame, in order."""
    labelling = {} if result.labelled is None else asdict(result.labelled.times)
    looking = {} if result.health is None else {"health": result.health.ms}
    return {"read": result.shot.read_ms, **looking, **labelling, "write": times.write_ms}
