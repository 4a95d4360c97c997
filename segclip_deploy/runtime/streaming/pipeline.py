"""Three stages that overlap: a thread reads, the caller's works, a thread writes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Channel", "Pipeline"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

_POLL_S = 0.1  # how soon a signal is noticed while nothing comes
_PATIENCE_S = 2.0  # for a reader that hangs in a camera


class Channel(Generic[A]):
    """Hands items from one thread to another, in order, a few waiting at most.

    Args:
        size: how many may wait.
        newest: when full, drop the oldest; otherwise ``put`` waits.

    Attributes:
        dropped: how many were.
    """

    def __init__(self, size: int, *, newest: bool = False) -> None:
        self.size, self.newest, self.dropped = size, newest, 0
        self._items: deque[A] = deque()
        self._changed = threading.Condition()
        self._closed = self._abandoned = False
        self._error: BaseException | None = None

    def put(self, item: A) -> bool:
        """Hand on an item; False: nobody takes any more."""
        with self._changed:
            if self.newest and len(self._items) >= self.size:
                self._items.popleft()
                self.dropped += 1
            while len(self._items) >= self.size and not self._abandoned:
                self._changed.wait()
            if not self._abandoned:
                self._items.append(item)
                self._changed.notify_all()
            return not self._abandoned

    def close(self, error: BaseException | None = None) -> None:
        """No more will be put; ``error`` is raised where the last has been taken."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more will be taken."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def take(self, stop: threading.Event | None = None) -> Iterator[A]:
        """Items until the channel is closed and empty, or ``stop`` is set."""
        while not (stop and stop.is_set()):
            with self._changed:
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                elif self._closed or self._abandoned:
                    break
                else:
                    self._changed.wait(_POLL_S)
                    continue
            yield item
        if self._error is not None and not (stop and stop.is_set()):
            raise self._error


class Pipeline(Generic[A, B, C]):
    """Reads ahead and writes behind, while the thread that iterates works.

    An error in any stage ends all three and is raised where the results are taken, after what
    was read before it has been worked on and written. Once ``stop`` is set, no item is begun any
    more, and those that were are written. So they are at a Ctrl-C; a second one does not wait.

    Args:
        read: items, run in a thread of its own.
        work: item → result, run by the thread that iterates.
        write: result → what is yielded, run in a thread of its own.
        stop: set to end early.
        newest: keep the newest item only while ``work`` is busy; by default all.
        depth: items that may wait between two stages.
    """

    def __init__(
        self,
        read: Iterable[A],
        work: Callable[[A], B],
        write: Callable[[B], C],
        *,
        stop: threading.Event,
        newest: bool = False,
        depth: int = 2,
    ) -> None:
        self._read, self._work, self._write, self._stop = read, work, write, stop
        self._inbox: Channel[A] = Channel(1 if newest else depth, newest=newest)
        self._outbox: Channel[B] = Channel(depth)
        self._done: deque[C] = deque()
        self._failed: BaseException | None = None  # of the writer
        self._drained = threading.Event()  # the writer has written its last

    @property
    def dropped(self) -> int:
        """How many items nobody had time for."""
        return self._inbox.dropped

    def __iter__(self) -> Iterator[C]:
        """Run once."""
        reader = threading.Thread(target=self._feed, daemon=True)  # it may hang in a camera
        writer = threading.Thread(target=self._drain)
        failed: Exception | None = None
        reader.start()
        writer.start()
        try:
            for item in self._inbox.take(self._stop):
                if not self._outbox.put(self._work(item)):
                    break
                yield from self._written()
        except Exception as error:
            failed = error
        finally:
            try:
                self._finish_writing(writer)
            except KeyboardInterrupt:
                self._finish_writing(writer)
                raise
            reader.join(_PATIENCE_S)
        yield from self._written()
        first = self._failed or failed
        if first is not None:
            raise first

    def _finish_writing(self, writer: threading.Thread) -> None:
        self._inbox.abandon()
        self._outbox.close()
        # Before join: once a signal has interrupted that, Python takes the thread for ended.
        self._drained.wait()
        writer.join()

    def _written(self) -> Iterator[C]:
        while self._done:
            yield self._done.popleft()

    def _feed(self) -> None:
        try:
            for item in self._read:
                if not self._inbox.put(item):
                    return
        except BaseException as error:
            self._inbox.close(error)
        else:
            self._inbox.close()

    def _drain(self) -> None:
        try:
            for result in self._outbox.take():
                self._done.append(self._write(result))
        except BaseException as error:
            self._failed = error
            self._outbox.abandon()
        finally:
            self._drained.set()
