"""What a worker does: look at a raster, label a block of it, put its blocks together."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy import __version__
from segclip_deploy.cluster.block_store import Block, BlockStore, cut_blocks
from segclip_deploy.errors import BadInput, SegclipError, StaleArtifact
from segclip_deploy.runtime.formats.georeference import find_georeference
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.stitching import Tally
from segclip_deploy.runtime.io.raster.cog import stored_digest, write_cog
from segclip_deploy.runtime.io.raster.pixels import what_is_removed
from segclip_deploy.runtime.io.raster.segment import (
    LabelledRaster,
    count_areas,
    describe_labels,
    label_rows,
    settings_digest,
)
from segclip_deploy.runtime.io.raster.source import Raster, Reading, describe_raster
from segclip_deploy.runtime.open_engine import engine_sha256, open_segmenter

__all__ = ["BlockPlan", "JobSpec", "Labelled", "finish", "label", "missing_path", "survey"]


@dataclass(frozen=True)
class JobSpec:
    """What is the same for all rasters of a call.

    Attributes:
        engine: an engine or bundle, on storage that the workers see, as all paths are.
        sha256: from ``engine_sha256``.
        reading: what the user says of rasters.
        overlap: pixels windows share; None: the Segmenter's choice.
        threads: of an engine; 0: its own choice.
        version: of this package.
    """

    engine: Path
    sha256: str
    reading: Reading
    overlap: int | None = None
    threads: int = 0
    version: str = __version__


@dataclass(frozen=True)
class BlockPlan:
    """What is to be done about a raster.

    Attributes:
        source: the raster.
        out: NAME.tif.
        digest: of all that decides its labels.
        size: (H, W).
        blocks: all of them, from the top.
        missing: those that are not there yet; none where ``out`` is.
        notes: what the user should know of the raster, a line each.
    """

    source: Path
    out: Path
    digest: str
    size: tuple[int, int]
    blocks: tuple[Block, ...]
    missing: tuple[Block, ...]
    notes: tuple[str, ...]

    @property
    def store(self) -> BlockStore:
        """Where its blocks are."""
        return BlockStore(self.out, self.digest, self.size[1])


@dataclass(frozen=True)
class Labelled:
    """What a block took: windows inferred, seconds, and seconds of them inside the engine."""

    windows: int = 0
    seconds: float = 0.0
    inferring: float = 0.0

    def __add__(self, other: Labelled) -> Labelled:
        return Labelled(
            self.windows + other.windows,
            self.seconds + other.seconds,
            self.inferring + other.inferring,
        )


def missing_path(paths: tuple[Path, ...]) -> str | None:
    """The first of some paths that this worker does not see."""
    return next((str(path) for path in paths if not path.exists()), None)


def survey(spec: JobSpec, source: Path, out: Path) -> BlockPlan:
    """Read a raster's header, and see what of its labels is there already.

    Raises:
        BadInput: it cannot be read, or not be labelled.
        BadArtifact: the engine does not open here.
    """
    if not find_georeference(source):
        raise BadInput(
            "is no raster that has a place",
            where=source,
            fix="segclip-deploy run takes other images",
        )
    with _segmenter(spec) as segmenter:
        raster, digest = _described(spec, segmenter, source)
        blocks = cut_blocks(segmenter, raster.grid)
    store = BlockStore(out, digest, raster.grid.own[1])
    done = out.exists() and stored_digest(out) == digest
    if not done:
        store.sweep(blocks)
    missing = () if done else tuple(block for block in blocks if not store.has(block))
    notes = (*raster.notes, *what_is_removed(raster))
    return BlockPlan(source, out, digest, raster.grid.own, blocks, missing, notes)


def label(spec: JobSpec, plan: BlockPlan, block: Block) -> Labelled:
    """Label a block and put it into the block store.

    Raises:
        BadInput: the raster is damaged, or not the one that was surveyed.
        OSError: the labels could not be written.
    """
    started = time.perf_counter()
    tally = Tally()
    with _segmenter(spec) as segmenter:
        raster = _unchanged(spec, segmenter, plan)
        with plan.store.put(block) as write:
            label_rows(segmenter, raster, *block, write, tally=tally)
    return Labelled(tally.windows, time.perf_counter() - started, tally.inferring)


def finish(spec: JobSpec, plan: BlockPlan, labelled: Labelled) -> LabelledRaster:
    """Put a raster's blocks together to its Cloud-Optimized GeoTIFF, unless that is there already.

    Args:
        spec: of the call.
        plan: of the raster.
        labelled: what its blocks took, all together.

    Returns:
        its label map; times are those of all workers together.

    Raises:
        BadInput: the raster is not the one that was surveyed.
        OSError: the file could not be written.
    """
    started = time.perf_counter()
    with _segmenter(spec) as segmenter:
        raster, vocabulary = _unchanged(spec, segmenter, plan), segmenter.vocabulary
    out, store = plan.out, plan.store
    if not out.exists() or stored_digest(out) != plan.digest:
        store.join(
            plan.blocks,
            lambda labels: write_cog(labels, raster, vocabulary, out, digest=plan.digest),
        )
    areas = count_areas(out, raster, vocabulary.names)
    store.clear()
    return describe_labels(
        raster,
        out,
        areas,
        windows=labelled.windows,
        kept=plan.size[0] - sum(bottom - top for top, bottom in plan.missing),
        seconds=labelled.seconds + time.perf_counter() - started,
        inferring=labelled.inferring,
    )


def _described(spec: JobSpec, segmenter: Segmenter, source: Path) -> tuple[Raster, str]:
    raster = describe_raster(source, spec.reading, segmenter.vocabulary.ground_sample_distance_m)
    return raster, settings_digest(segmenter, raster, spec.sha256)


def _unchanged(spec: JobSpec, segmenter: Segmenter, plan: BlockPlan) -> Raster:
    raster, digest = _described(spec, segmenter, plan.source)
    if digest != plan.digest:
        raise BadInput("was changed while it was labelled", where=plan.source, fix="run map again")
    return raster


_lock = threading.Lock()  # an engine labels one image at a time, however many threads a worker has
_held: list[tuple[JobSpec, Segmenter]] = []


@contextmanager
def _segmenter(spec: JobSpec) -> Iterator[Segmenter]:
    """The engine, opened at the first call, kept for the next, closed when another is asked for."""
    with _lock:
        if not _held or _held[0][0] != spec:
            while _held:
                _held.pop()[1].backend.close()
            _held.append((spec, _opened(spec)))
        yield _held[0][1]


def _opened(spec: JobSpec) -> Segmenter:
    here = f"{spec.engine} on {socket.gethostname()}"
    if spec.version != __version__:
        raise StaleArtifact(
            f"segclip-deploy is {__version__}, and {spec.version} where map was called",
            where=socket.gethostname(),
            fix=f"install {spec.version} on it",
        )
    if not spec.engine.exists():
        raise StaleArtifact("is not there", where=here, fix="put it where all workers see it")
    try:
        if engine_sha256(spec.engine) != spec.sha256:
            raise StaleArtifact("is another engine than where map was called", where=here)
        return open_segmenter(spec.engine, overlap=spec.overlap, threads=spec.threads)
    except SegclipError as error:
        raise type(error)(error.what, where=here, fix=error.fix) from error
