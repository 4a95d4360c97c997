"""The verb: many rasters through an engine on the workers of a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.cluster.block_store import Block
from segclip_deploy.cluster.pool import Failed, Job, Pool
from segclip_deploy.cluster.work import BlockPlan, JobSpec, Labelled, finish, label, survey
from segclip_deploy.errors import BadArtifact, MissingDependency
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.io.raster.segment import LabelledRaster

__all__ = ["FailedRaster", "Mapped", "map_rasters"]


@dataclass(frozen=True)
class Mapped:
    """A raster that is finished.

    Attributes:
        source: the raster.
        labelled: its label map; times are those of all workers together.
        notes: what the user should know of it, a line each.
    """

    source: Path
    labelled: LabelledRaster
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FailedRaster:
    """What failed as often as it was tried; the raster has no output.

    Attributes:
        source: the raster.
        doing: ``survey``, ``label`` or ``finish``.
        rows: of the block, where it was labelled.
        failed: why.
    """

    source: Path
    doing: str
    rows: Block | None
    failed: Failed

    def to_json(self) -> dict[str, Any]:
        """With the traceback."""
        return {
            "image": str(self.source),
            "doing": self.doing,
            "rows": self.rows and list(self.rows),
            "error": str(self.failed),
            "traceback": self.failed.trace,
        }


def map_rasters(
    pool: Pool,
    spec: JobSpec,
    targets: Mapping[Path, Path],
    *,
    report: Report = silent,
) -> Iterator[Mapped | FailedRaster]:
    """Label rasters, each to the bytes that one process would write.

    All are surveyed first; then blocks are labelled raster by raster, and a raster is finished as
    soon as its last block is there. What a call of before has done is not done again.

    Args:
        pool: of workers that see everything.
        spec: of the call.
        targets: NAME.tif by raster; absolute, in a folder that exists.
        report: called with what is done; rasters, then blocks done and in all.

    Yields:
        rasters as they are finished, and what failed.

    Raises:
        BadArtifact: the engine does not open on a worker.
        MissingDependency: a worker has not what it takes.
        ConnectionError: the scheduler is gone; what is finished is kept.
    """
    plans: dict[Path, BlockPlan] = {}
    surveys = deque(Job(survey, (spec, *target)) for target in targets.items())
    for done, (job, answer) in enumerate(pool.do(surveys), start=1):
        report("surveying", done, len(targets))
        source = job.arguments[1]
        if isinstance(answer, Failed):
            yield _failure(answer, source, "survey")
        else:
            plans[source] = answer
    ordered = [plans[source] for source in targets if source in plans]
    yield from _label(pool, spec, ordered, report)


def _label(
    pool: Pool, spec: JobSpec, plans: list[BlockPlan], report: Report
) -> Iterator[Mapped | FailedRaster]:
    left = {plan.source: len(plan.missing) for plan in plans}  # blocks that are not there yet
    took = dict.fromkeys(left, Labelled())
    done, total = 0, sum(left.values())
    jobs: deque[Job] = deque()
    for plan in plans:
        jobs += [Job(label, (spec, plan, block)) for block in plan.missing]
        if not plan.missing:
            jobs.append(Job(finish, (spec, plan, Labelled())))
    for job, answer in pool.do(jobs):
        plan = job.arguments[1]
        if job.function is finish:
            if isinstance(answer, Failed):
                yield _failure(answer, plan.source, "finish")
            else:
                yield Mapped(plan.source, answer, plan.notes)
            continue
        done += 1
        report("labelling", done, total)
        if isinstance(answer, Failed):
            yield _failure(answer, plan.source, "label", job.arguments[2])
            continue
        took[plan.source] += answer
        left[plan.source] -= 1
        if not left[plan.source]:
            jobs.appendleft(Job(finish, (spec, plan, took[plan.source])))


def _failure(failed: Failed, source: Path, doing: str, rows: Block | None = None) -> FailedRaster:
    """What failed, if that concerns one raster; a worker that cannot work at all ends the call."""
    if isinstance(failed.error, BadArtifact | MissingDependency):
        raise failed.error
    return FailedRaster(source, doing, rows, failed)
