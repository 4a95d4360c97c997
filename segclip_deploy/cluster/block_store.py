"""Blocks: rows of a raster that one worker labels, and the files they wait in for the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.raster.grid import RasterGrid

__all__ = ["Block", "BlockStore", "cut_blocks"]

Block = tuple[int, int]
"""Rows (from, to) of a raster."""

_WINDOW_ROWS = 8
"""Rows of windows in a block. Neighbours of blended windows both infer the one row of windows
between them, an eighth more work; and a block of a raster 20 000 pixels wide is 400 windows of 512."""


def cut_blocks(segmenter: Segmenter, grid: RasterGrid) -> tuple[Block, ...]:
    """Cut a raster into blocks of its full width, about ``_WINDOW_ROWS`` rows of windows each.

    They depend on the raster and the model alone, so that another number of workers uses them, too.
    """
    cuts = segmenter.cuts(segmenter.padded(*grid.model))
    count = max(1, round(len(cuts) / _WINDOW_ROWS))
    tops = [cuts[len(cuts) * index // count] for index in range(count)]
    rows = sorted({*(grid.own_rows(top, top)[0] for top in tops), grid.own[0]})
    return tuple(pairwise(rows))


@dataclass(frozen=True)
class BlockStore:
    """The folder ``.segclip-deploy.NAME.blocks`` beside an output, where finished blocks wait.

    A block's file is named by what decides its labels. It is whole or not there, also after the power
    went; two workers that write the same one at once do each other no harm.

    Attributes:
        out: the output it becomes.
        digest: of all that decides the labels.
        width: of the raster.
    """

    out: Path
    digest: str
    width: int

    @property
    def folder(self) -> Path:
        """Where they lie; gone with ``clear``."""
        return self.out.with_name(f".segclip-deploy.{self.out.name}.blocks")

    def path(self, block: Block) -> Path:
        """Of a block's labels, a byte each."""
        return self.folder / f"{self.digest}-{block[0]}-{block[1]}.raw"

    def has(self, block: Block) -> bool:
        """Whether a block is there, and whole."""
        path = self.path(block)
        return path.is_file() and path.stat().st_size == (block[1] - block[0]) * self.width

    @contextmanager
    def put(self, block: Block) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
        """A function that writes a block's next labels; the block is there if the body succeeds."""
        with replace_file(self.path(block)) as temporary, temporary.open("wb") as stream:

            def write(labels: NDArray[np.uint8]) -> None:
                stream.write(labels.tobytes())

            yield write
            stream.flush()
            os.fsync(stream.fileno())

    def sweep(self, blocks: tuple[Block, ...]) -> None:
        """Remove blocks of other settings, and what killed workers left."""
        wanted = {self.path(block) for block in blocks}
        for path in self.folder.glob("*"):
            if path not in wanted:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def join(self, blocks: tuple[Block, ...], use: Callable[[Path], None]) -> None:
        """Give all blocks to ``use``, as one file in a folder that is removed afterwards.

        Raises:
            OSError: a block is not there, or there is no room.
        """
        # A folder of its own: a worker that was given up may be at it still.
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            whole = folder / "labels.raw"
            with whole.open("wb") as stream:
                for block in blocks:
                    with self.path(block).open("rb") as part:
                        shutil.copyfileobj(part, stream, 1 << 20)
            use(whole)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
