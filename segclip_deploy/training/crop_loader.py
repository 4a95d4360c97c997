"""Batches of crops in order, drawn here or in processes beside this one: the same ones."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info

from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.targets.device import usable_cores
from segclip_deploy.training.augment import Crop, Crops

__all__ = ["Batch", "Loading", "open_batches"]

_MOST_WORKERS = 4  # unless more are asked for

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images (B, crop, crop, 3) and their ground truth (B, crop, crop)."""


@dataclass(frozen=True)
class Loading:
    """How training images are read. It changes nothing that is computed.

    Attributes:
        workers: processes that read images and draw crops. 0: the training does so itself. None: 0 where
            all images fit into the cache, else one for each free core, up to 4.
        cache_bytes: of decoded images that are kept, over all processes.
    """

    workers: int | None = None
    cache_bytes: int = 10**9

    def workers_for(self, *, whole: bool) -> int:
        """How many processes, for images that all fit into the cache, or do not."""
        if self.workers is not None:
            return self.workers
        return 0 if whole else max(1, min(_MOST_WORKERS, usable_cores() - 1))


@dataclass(frozen=True)
class _Order:
    """Which crops a batch is of, from a step on, without end: (step, index in the step)."""

    first: int
    batch: int
    batches: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.first
        while True:
            for start in range(0, self.batches * self.batch, self.batch):
                yield [(step, start + item) for item in range(self.batch)]
            step += 1


@contextmanager
def open_batches(
    crops: Crops, first: int, *, batch: int, batches: int, loading: Loading
) -> Iterator[Iterator[Batch]]:
    """The batches of step ``first`` and of those that follow; its processes end with the body.

    Args:
        crops: what is drawn.
        first: step.
        batch: crops of a batch.
        batches: in a step.
        loading: in how many processes.

    Raises:
        BadInput: an image cannot be read any more.
        SegclipError: a process was ended from outside.
    """
    workers = loading.workers_for(whole=crops.images.whole)
    if workers:
        crops.images.clear()  # else each process had it besides its own
    # Forked processes share what they do not change, and a script needs no __main__ guard. Arrays
    # and not tensors come back: they go through a pipe, and a container has little /dev/shm.
    fork = workers and "fork" in multiprocessing.get_all_start_methods()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more than cores: as asked
        loader: DataLoader[Crop | SegclipError] = DataLoader(
            crops,
            batch_sampler=_Order(first, batch, batches),
            num_workers=workers,
            collate_fn=_stack,
            worker_init_fn=_begin if workers else None,
            multiprocessing_context="fork" if fork else None,
        )
        arriving = iter(loader)
    try:
        yield map(_unless_error, arriving)
    except RuntimeError as error:  # raised by a signal handler, wherever the body is
        if "DataLoader worker" not in str(error):
            raise
        raise SegclipError(
            "a process that reads training images was ended from outside; was memory short?",
            fix="repeat the command to go on, with a lower --cache-gb or --workers",
        ) from error
    finally:
        if workers:  # at once: a traceback may hold the iterator, and with it its signal handler
            arriving._shutdown_workers()  # type: ignore[attr-defined]


def _unless_error(got: Batch | SegclipError) -> Batch:
    if isinstance(got, SegclipError):
        raise got
    return got


def _stack(drawn: list[Crop | SegclipError]) -> Batch | SegclipError:
    """One batch; or the error of an image, which would be drowned in a traceback if it were raised."""
    pairs: list[Crop] = []
    for one in drawn:
        if isinstance(one, SegclipError):
            return one
        pairs.append(one)
    images, masks = zip(*pairs, strict=True)
    return np.stack(images), np.stack(masks)


def _begin(_worker: int) -> None:
    """In each process: keep a share of the cache, and end with the training, however that ends."""
    worker = get_worker_info()
    assert worker is not None
    assert isinstance(worker.dataset, Crops)
    worker.dataset.images.share(worker.num_workers)
    # PyTorch's own watch waits for what is in the pipe to be read, which after a kill nobody does.
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
