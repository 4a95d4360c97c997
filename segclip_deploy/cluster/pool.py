"""Jobs for the workers of a Dask cluster: few at a time, retried, and each accounted for."""

from __future__ import annotations

import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from segclip_deploy._optional import install_command, require
from segclip_deploy.cluster.work import missing_path
from segclip_deploy.errors import BadInput, SegclipError, command

__all__ = ["RETRIES", "Failed", "Job", "Pool", "local_pool", "scheduler_pool"]

RETRIES = 2
"""How often a job is tried again that failed, or whose worker died."""

_WAIT = 30
"""Seconds a scheduler and the first worker have to answer."""

_PAUSE = 0.2
"""Seconds between two questions to workers of which none answered."""

_PATIENCE = 5
"""Seconds without news after which workers are looked after."""

_PRELOAD = """
import logging, signal
# Ctrl-C reaches every process of the terminal: the one that started this worker will end it.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# It tells what fails, too.
logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
"""

_SETTINGS = {
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.worker.preload": [_PRELOAD],
}

_WHY = "a cluster of workers"


@dataclass(frozen=True)
class Job:
    """A function of this package and its arguments; both travel to a worker."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Failed(Exception):
    """What became of a job that failed as often as it was tried.

    Attributes:
        error: that of the last time; one of this package's is what it was, any other its text.
        trace: its traceback, on the worker.
    """

    def __init__(self, error: Exception, trace: str) -> None:
        super().__init__(error, trace)
        self.error, self.trace = error, trace

    def __str__(self) -> str:
        return str(self.error)


class Pool:
    """The workers of a cluster.

    Args:
        client: of Dask.
        resources: what a worker must have, and each job takes of it while it runs.
        revive: is called when nothing happens for a while, to bring back workers that are gone.
    """

    def __init__(
        self,
        client: Any,
        resources: Mapping[str, float],
        revive: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._resources, self._revive = client, dict(resources), revive
        self._asked, self._threads = -math.inf, 0

    def workers(self) -> dict[str, Any]:
        """What the scheduler says of each worker that has the resources, by address."""
        return {
            address: worker
            for address, worker in self._client.scheduler_info(n_workers=-1)["workers"].items()
            if all(
                worker["resources"].get(name, 0) >= amount
                for name, amount in self._resources.items()
            )
        }

    def check_sees(self, paths: tuple[Path, ...]) -> None:
        """Accept workers that all see some files and folders.

        Raises:
            BadInput: one does not; or has not this package. No worker is there, and none comes.
        """
        for address, missing in self._missing_paths(paths).items():
            if isinstance(missing, ModuleNotFoundError):
                raise BadInput(
                    f"has not what map needs ({missing})",
                    where=f"worker {address}",
                    fix=f"{install_command('cluster')} there",
                )
            if isinstance(missing, BaseException):
                raise missing
            if missing is not None:
                raise BadInput(
                    f"does not see {missing}",
                    where=f"worker {address}",
                    fix="engine, rasters and -o must lie on storage that all workers share, "
                    "under the same paths",
                )

    def _missing_paths(self, paths: tuple[Path, ...]) -> dict[str, Any]:
        """What each worker does not see, or its error, by address; one that ends meanwhile has no say."""
        distributed = require("distributed", why=_WHY)
        end = time.monotonic() + _WAIT
        while time.monotonic() < end:
            self._await_worker()
            workers = list(self.workers())
            found = self._client.run(missing_path, paths, workers=workers, on_error="return")
            gone = distributed.comm.CommClosedError
            answers = {who: said for who, said in found.items() if not isinstance(said, gone)}
            if answers:
                return answers
            time.sleep(_PAUSE)  # until the scheduler knows that they are gone
        raise BadInput(f"no worker answered in {_WAIT} s", where="the cluster")

    def _await_worker(self) -> None:
        """Wait until one worker is there; those that are gone are brought back."""
        distributed = require("distributed", why=_WHY)
        end = time.monotonic() + _WAIT
        while not self.workers():
            if time.monotonic() > end:
                raise BadInput(f"no worker in {_WAIT} s", where="the cluster")
            self._revive()
            with suppress(distributed.TimeoutError):
                self._client.wait_for_workers(1, timeout=_PATIENCE)

    def do(self, jobs: deque[Job]) -> Iterator[tuple[Job, Any]]:
        """Do jobs, and those that are added to the queue meanwhile.

        Two wait or run per thread of a worker, whatever the queue holds: the scheduler's memory
        stays small, and the next job is there when one ends.

        Yields:
            each job once, as it ends, with what its function returned, or ``Failed``.

        Raises:
            ConnectionError: the scheduler is gone.
        """
        suspects: deque[Job] = deque()
        yield from self._flow(jobs, suspects)
        # Their workers died, maybe because of a neighbour: each for itself it is known.
        while suspects:
            yield from self._flow(deque([suspects.popleft()]), None)
            yield from self.do(jobs)

    def _flow(self, jobs: deque[Job], suspects: deque[Job] | None) -> Iterator[tuple[Job, Any]]:
        distributed = require("distributed", why=_WHY)
        ended: SimpleQueue[Any] = SimpleQueue()  # of futures
        running: dict[Any, Job] = {}
        try:
            while jobs or running:
                while jobs and len(running) < self._width():
                    job = jobs.popleft()
                    future = self._client.submit(
                        _attempt,
                        job,
                        # Never the answer of another call.
                        key=f"{job.function.__name__}-{uuid4().hex}",
                        retries=RETRIES,
                        resources=self._resources,
                    )
                    running[future] = job
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=_PATIENCE)
                except Empty:
                    self._revive()
                    continue
                job = running.pop(future)
                try:
                    answer = future.result()
                except distributed.CancelledError as error:
                    raise ConnectionError("the scheduler is gone") from error
                except Failed as failed:
                    answer = failed
                except distributed.KilledWorker as error:
                    if suspects is not None:
                        suspects.append(job)
                        continue
                    answer = Failed(error, str(error))
                except Exception as error:  # it never ran, or its answer did not arrive
                    answer = Failed(error, traceback.format_exc())
                yield job, answer
        finally:
            for future in running:
                future.cancel()

    def _width(self) -> int:
        """How many jobs may wait or run; asked of the scheduler now and then, workers come and go."""
        now = time.monotonic()
        if now - self._asked > _PATIENCE:
            self._asked, self._threads = now, sum(self._client.nthreads().values())
        return 2 * max(1, self._threads)


def _attempt(job: Job) -> Any:
    """Do a job on a worker. What it raises must reach the client, and GDAL's errors cannot travel."""
    try:
        return job.function(*job.arguments)
    except SegclipError as error:
        plain: Exception = type(error)(error.what, where=error.where, fix=error.fix)
        trace = traceback.format_exc()
    except Exception as error:
        plain, trace = RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc()
    raise Failed(plain, trace)


@contextmanager
def local_pool(workers: int) -> Iterator[Pool]:
    """Worker processes on this machine, of one thread each; one that dies is started anew."""
    distributed = require("distributed", why=_WHY)
    dask = require("dask", why=_WHY)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # of engines Dask knows nothing: the machine's memory is the limit
            dashboard_address="127.0.0.1:0",
        )
        stack.enter_context(cluster)
        client = stack.enter_context(distributed.Client(cluster))
        # Dask starts a worker anew that dies, but not one that dies while it starts.
        yield Pool(client, {}, lambda: cluster.scale(workers))


@contextmanager
def scheduler_pool(address: str, resources: Mapping[str, float]) -> Iterator[Pool]:
    """The workers of a scheduler that runs already.

    Raises:
        BadInput: nobody answers there, or no worker has the resources.
    """
    distributed = require("distributed", why=_WHY)
    try:
        client = distributed.Client(address, timeout=_WAIT)
    except (OSError, ValueError) as error:
        raise BadInput(f"no scheduler answers ({error})", where=f"--scheduler {address}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WAIT)
        except distributed.TimeoutError as error:
            raise BadInput(
                f"no worker in {_WAIT} s",
                where=f"--scheduler {address}",
                fix=command("dask", "worker", address, "--nthreads", "1"),
            ) from error
        pool = Pool(client, resources)
        if not pool.workers():
            said = " ".join(f"{name}={amount:g}" for name, amount in resources.items())
            raise BadInput(
                f"none of its workers has {said}",
                where=f"--scheduler {address}",
                fix=command("dask", "worker", address, "--nthreads", "1", "--resources", said),
            )
        yield pool
