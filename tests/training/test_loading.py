"""Images are read when they are needed: the same crops, whoever reads, in memory that does not grow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary, load_vocabulary
from segclip_deploy.errors import BadInput, SegclipError
from segclip_deploy.evaluation.dataset import Dataset, Sample, open_dataset
from segclip_deploy.evaluation.dataset_index import Index
from segclip_deploy.evaluation.layouts import OWN
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.training.augment import Crops
from segclip_deploy.training.crop_loader import Loading, open_batches
from segclip_deploy.training.image_cache import ImageCache
from tests.conftest import ROOT
from tests.training.test_train import data

__all__ = ["data"]  # a fixture

SIDE = 512
ONE = SIDE * SIDE * 4  # bytes of a generated image and its ground truth


class Generated(Dataset):
    """Images that are made where a dataset reads them."""

    reads: list[str]

    def read(self, name: str) -> Sample:
        self.__dict__.setdefault("reads", []).append(name)
        if (self.root / name).exists():
            raise BadInput("damaged", where=self.root / name)
        rng = np.random.default_rng(int(name))
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        ground_truth = rng.integers(0, 5, (SIDE, SIDE), np.uint8)
        ground_truth[:8] = IGNORE_INDEX
        return Sample(name, Frame(pixels, name), ground_truth)


def generated(count: int, root: Path = Path()) -> Generated:
    names = tuple(str(index) for index in range(count))
    return Generated(root, load_vocabulary("dubai"), Index(OWN, {}, {"train": names}))


def drawn(
    dataset: Dataset, loading: Loading, first: int = 0, count: int = 4, batch: int = 2
) -> list[Any]:
    """Some batches, of two in a step."""
    crops = Crops(ImageCache(dataset, "train", loading.cache_bytes), crop=64, seed=5)
    with open_batches(crops, first, batch=batch, batches=2, loading=loading) as arriving:
        return [next(arriving) for _ in range(count)]


def test_crops_are_the_same_whoever_draws_them_and_wherever_it_begins(
    data: Path, vocabulary: Vocabulary
) -> None:
    dataset = open_dataset(data, vocabulary)
    whole = drawn(dataset, Loading(0))
    assert len(np.unique(np.stack([images for images, _ in whole]), axis=0)) == 4
    for loading in (Loading(0, 0), Loading(1), Loading(3, 100_000)):
        for (images, masks), (wanted, wanted_masks) in zip(
            drawn(dataset, loading), whole, strict=True
        ):
            np.testing.assert_array_equal(images, wanted)
            np.testing.assert_array_equal(masks, wanted_masks)
    later = drawn(dataset, Loading(2), first=1, count=2)
    for (images, _), (wanted, _) in zip(later, whole[2:], strict=True):
        np.testing.assert_array_equal(images, wanted)
    in_one = drawn(dataset, Loading(0), count=1, batch=4)[0][0]
    np.testing.assert_array_equal(in_one, np.concatenate([images for images, _ in whole[:2]]))


def test_the_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    dataset = generated(4)
    cache = ImageCache(dataset, "train", 2 * ONE)
    assert cache.areas == (SIDE * SIDE,) * 4
    assert (cache.whole, cache.nbytes) == (False, 2 * ONE)
    for index in (3, 2, 1, 2, 0, 2):  # 2 is used in between, and 3 and 1 make way
        cache.read(index)
    assert dataset.reads == ["0", "1", "2", "3", "1", "0"]
    cache.share(2)
    assert cache.nbytes == ONE
    cache.clear()
    assert cache.nbytes == 0
    assert ImageCache(generated(4), "train", ONE - 1).nbytes == 0
    all_of_them = ImageCache(generated(2), "train", 2 * ONE)
    all_of_them.share(2)
    all_of_them.clear()
    assert (all_of_them.whole, all_of_them.nbytes) == (True, 2 * ONE)


def test_small_sets_need_no_process_and_large_ones_get_some() -> None:
    assert Loading().workers_for(whole=True) == 0
    assert 1 <= Loading().workers_for(whole=False) <= 4
    assert Loading(7).workers_for(whole=True) == 7


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_damaged_during_training_ends_it_with_one_line(
    workers: int, tmp_path: Path
) -> None:
    crops = Crops(ImageCache(generated(3, tmp_path), "train", 0), crop=64, seed=0)
    with open_batches(crops, 0, batch=2, batches=1, loading=Loading(workers, 0)) as some:
        next(some)
        for name in "012":
            (tmp_path / name).touch()
        with pytest.raises(BadInput, match=f"^{tmp_path}/[012]: damaged$"):
            deque(islice(some, 9))  # some were drawn ahead


@pytest.mark.faults
def test_a_process_that_is_killed_ends_training_with_one_line() -> None:
    crops = Crops(ImageCache(generated(3), "train", 0), crop=64, seed=0)

    def lose_one() -> None:
        with open_batches(crops, 0, batch=2, batches=1, loading=Loading(1, 0)) as some:
            next(some)
            for child in _children(os.getpid()):
                os.kill(child, signal.SIGKILL)
            deque(islice(some, 9))

    with pytest.raises(SegclipError, match=r"was memory short.*--cache-gb or --workers") as caught:
        lose_one()
    assert "\n" not in str(caught.value)
    subprocess.run(["true"], check=True)  # the end of another process is no error


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(word) for word in text.split()]


def _memory(process: int) -> int:
    """What a process and its children have in memory, bytes; what they share counts once (PSS)."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    own = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(own.split()[1]) * 1024 + sum(map(_memory, _children(process)))


def _most_memory(images: int, loading: Loading, steps: int) -> int:
    """The most that is in memory while some steps are drawn; run in a process of its own."""
    torch.set_num_threads(1)
    crops = Crops(ImageCache(generated(images), "train", loading.cache_bytes), crop=64, seed=0)
    most = _memory(os.getpid())
    with open_batches(crops, 0, batch=8, batches=1, loading=loading) as some:
        for _ in range(steps):
            next(some)
            most = max(most, _memory(os.getpid()))
    return most


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc of Linux")
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.long), 2])
def test_memory_follows_the_cache_and_not_the_set(workers: int) -> None:
    """A set of 20 times the cache takes hardly more memory than one that just fits into it."""
    cache = 16 * ONE

    def most(images: int) -> int:
        code = (
            "from tests.training.test_loading import Loading, _most_memory\n"
            f"print(_most_memory({images}, Loading({workers}, {cache}), 40))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return int(json.loads(done.stdout))

    fits, large = most(16), most(20 * 16)
    # An image and a step or two beside the cache in each process; in memory it would be 19 times that.
    assert large - fits < 2 * cache
