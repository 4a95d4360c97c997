"""What makes a restart mend something: errors that pass, and numbers that go on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from segclip_deploy.errors import BadInput, DeviceLost, SegclipError
from segclip_deploy.progress import Say
from segclip_deploy.runtime.io.sources.base import Shot, Source, Unreadable
from segclip_deploy.runtime.io.sources.live import next_wait

__all__ = ["EndlessCamera", "lost_when", "wait_for_devices"]


@contextmanager
def lost_when(*kinds: type[SegclipError]) -> Iterator[None]:
    """Make errors that a later start may not have a ``DeviceLost``: systemd then starts anew.

    Args:
        kinds: of errors: a GPU that is absent or refuses, a camera that is not there.

    Raises:
        DeviceLost: in the place of one of them.
    """
    try:
        yield
    except SegclipError as error:
        causes = (error, error.__cause__)  # an engine's error is raised anew with its path
        if not any(isinstance(cause, kinds) for cause in causes):
            raise
        raise DeviceLost(error.what, where=error.where, fix=error.fix) from error


def wait_for_devices(
    sources: Sequence[str], stop: threading.Event, say: Say, *, patience_s: float = 60.0
) -> None:
    """Wait for cameras' devices, which may come later than we do.

    Raises:
        DeviceLost: one is not there for longer than the patience.
    """
    end = time.perf_counter() + patience_s
    for source in sources:
        wait = next_wait()
        while source.startswith("/dev/") and not Path(source).exists() and not stop.is_set():
            if time.perf_counter() + wait > end:
                raise DeviceLost("no such device", where=source)
            say(f"{source}: no such device; trying again in {wait:g} s")
            stop.wait(wait)
            wait = next_wait(wait)


class EndlessCamera:
    """A camera whose frames go on from those of earlier starts, so that none is overwritten.

    One that is not there is waited for, and then lost: at boot it may come later than we do.

    Args:
        source: the camera.
        first: the number of the first frame.
        say: is told when it is not there.
        patience_s: how long it is waited for.
    """

    live = True
    total: int | None = None

    def __init__(self, source: Source, first: int, say: Say, *, patience_s: float = 60.0) -> None:
        self._source, self._first = source, first
        self.reconnects = self.dropped = 0
        self._say, self._patience_s = say, patience_s

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read frames as they come.

        Raises:
            DeviceLost: the camera is not there, or was away, for longer than the patience.
        """
        wait, end = next_wait(), time.perf_counter() + self._patience_s
        while not stop.is_set():
            try:
                for shot in self._source.shots(stop):
                    self.reconnects, self.dropped = self._source.reconnects, self._source.dropped
                    yield self._numbered(shot) if isinstance(shot, Shot) else shot
            except BadInput as error:  # only before the first frame
                if time.perf_counter() + wait > end:
                    raise DeviceLost(error.what, where=error.where, fix=error.fix) from error
                self._say(f"{error}; trying again in {wait:g} s")
            else:
                return
            stop.wait(wait)
            wait = next_wait(wait)

    def _numbered(self, shot: Shot) -> Shot:
        index = shot.index + self._first
        return replace(shot, index=index, name=re.sub(r"\d+$", f"{index:06d}", shot.name))
