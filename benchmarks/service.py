"""What ``run --service`` costs beside ``run``: messages to systemd, bounded lines, flushes to the disk.

    python benchmarks/service.py ENGINE IMAGES [--rounds 150] [--folder DIR]

ENGINE takes 1024×1024; a frame is one window. One run labels all frames. In each round two of them are written as
``run`` does and two as ``run --service`` does with a manager that listens, in an order that is turned from round to round,
labels and overlays, to a disk of DIR. The time of a way is that between its two frames, when no write of the other way is
under way. The cost is the median over the rounds of one time divided by the other; its bounds are those of
2000 resamples of the rounds.

Then the writing of one frame is measured alone, 200 times in turns, with pictures that are encoded already: what a
service takes longer, in time and in CPU time of the writing thread, with flushes and without.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

from record import record
from streams import SIDE, centres

from segclip_deploy.runtime.inference.drawing import png
from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.sinks import folder as folder_sink
from segclip_deploy.runtime.io.sinks.base import FanOut, FrameResult, RasterResult, Sink, WriteTimes
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sinks.line_log import LineLog
from segclip_deploy.runtime.io.sources.base import Shot
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.profiling.conditions import load_average
from segclip_deploy.runtime.service.endless import EndlessRun
from segclip_deploy.runtime.service.notify import Notifier
from segclip_deploy.runtime.streaming.run import Run

KEEP = 10**10
ALONE = 200  # frames that are written alone
WARM_UP = 3  # rounds


class InTurns:
    """A sink that hands frames to a plain one and to that of a service, two by two.

    Attributes:
        seconds: between the two frames of each turn, by way.
    """

    def __init__(self, plain: Sink, service: Sink) -> None:
        self._sinks = (plain, service)
        self._count, self._last = 0, (0.0, 0.0)
        self.seconds: dict[str, list[float]] = {"run": [], "service": []}
        self.cpu: dict[str, list[float]] = {"run": [], "service": []}

    def __enter__(self) -> InTurns:
        return self

    def __exit__(self, *_: object) -> None:
        """The sinks are closed by whoever opened them."""

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Write it the way whose turn it is."""
        turn, second = divmod(self._count, 2)
        way = (turn + turn // 2) % 2  # 0 1, 1 0, 0 1, …
        times = self._sinks[way].write(result)
        now = time.perf_counter(), time.process_time()
        name = ("run", "service")[way]
        if second and turn >= 2 * WARM_UP:
            self.seconds[name].append(now[0] - self._last[0])
            self.cpu[name].append(now[1] - self._last[1])
        self._count, self._last = self._count + 1, now
        return times


def fly(segmenter: Segmenter, paths: list[Path], out: Path, notifier: Notifier) -> InTurns:
    """A run whose frames are written both ways."""
    source = FileSource([SourceFile(path, path.stem) for path in paths])
    endless = EndlessRun(out / "service", KEEP, notifier, lambda _: None)
    with ExitStack() as stack:
        plain = stack.enter_context(FolderSink(out / "plain", keep=KEEP))
        folder = FolderSink(out / "service", keep=endless.keep, log=endless.log(source))
        service = stack.enter_context(FanOut(folder, endless.heartbeat))
        turns = InTurns(plain, service)
        for outcome in Run(segmenter, source, turns):
            assert outcome.error is None
    shutil.rmtree(out)
    return turns


def write_alone(
    segmenter: Segmenter, path: Path, out: Path, notifier: Notifier
) -> dict[str, dict[str, float]]:
    """Milliseconds, median and bounds, that writing one frame takes more in a service.

    Its pictures are drawn and encoded before, the same for both.
    """
    beats = [EndlessRun(out, KEEP, notifier, lambda _: None).heartbeat for _ in range(2)]
    frame = read_frame(path)
    labelled = segmenter.segment(frame)
    overlay = labelled.overlay()
    data = png(overlay)
    ways = ("plain", "service", "service, no flush")
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(folder_sink, "png", return_value=data))
        sinks: dict[str, Sink] = {"plain": FolderSink(out / "plain", keep=KEEP)}
        for way, beat in zip(ways[1:], beats, strict=True):
            log = LineLog(out / way / "areas.jsonl", KEEP)
            sinks[way] = FanOut(FolderSink(out / way, keep=KEEP, log=log), beat)
        for sink in sinks.values():
            stack.enter_context(sink)
        for number in range(ALONE):
            shot = Shot(frame, f"live_{number:06d}", number, Capture(), 0.0, 1.0, 0.0)
            for way in ways[number % 3 :] + ways[: number % 3]:
                result = FrameResult(shot, labelled, segmenter.vocabulary)
                result.__dict__["overlay"] = overlay
                with mock.patch("os.fsync") if "no" in way else nullcontext():
                    before = time.perf_counter(), time.thread_time()
                    sinks[way].write(result)
                    after = time.perf_counter(), time.thread_time()
                taken[way].append((1e3 * (after[0] - before[0]), 1e3 * (after[1] - before[1])))
    shutil.rmtree(out)
    return {
        f"{way}, {name}": bounds(
            [one[at] - other[at] for one, other in zip(taken[way], taken["plain"], strict=True)], 2
        )
        for way in ways[1:]
        for at, name in enumerate(("wall_ms", "cpu_ms"))
    }


def manager(stack: ExitStack) -> Notifier:
    """A manager that listens, in a thread."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "notify"
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    listener.bind(str(path))

    def listen() -> None:
        while listener.recv(4096) != b"END=1":
            pass

    threading.Thread(target=listen, daemon=True).start()
    notifier = stack.enter_context(Notifier(str(path), watchdog_s=90.0))
    stack.callback(notifier.send, "END=1", wait_s=5.0)
    return notifier


def bounds(values: list[float], digits: int) -> dict[str, float]:
    """Median, and the bounds of 95 % of medians of resamples."""
    chance = random.Random(0)
    medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(2000))
    found = {"median": median(values), "low": medians[50], "high": medians[1949]}
    return {name: round(value, digits) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; by default of /tmp")
    given = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder)))
        segmenter = stack.enter_context(open_segmenter(given.engine, threads=given.threads))
        assert (segmenter.spec.height, segmenter.spec.width) == (SIDE, SIDE)
        originals = centres(given.images, scratch, 12)
        paths = [scratch / f"f{n:05d}.jpg" for n in range(4 * (given.rounds + WARM_UP))]
        for number, path in enumerate(paths):
            path.symlink_to(originals[number % len(originals)])
        notifier = manager(stack)
        load = load_average()
        turns = fly(segmenter, paths, scratch / "out", notifier)
        alone = write_alone(segmenter, paths[0], scratch / "alone", notifier)
        disk = subprocess.run(
            ["df", "--output=source,fstype", scratch], capture_output=True, text=True, check=True
        ).stdout.splitlines()[1]
        name = segmenter.backend.name
    result = {
        "engine": name,
        "rounds": given.rounds,
        "disk": " ".join(disk.split()),
        "ms_per_frame": {way: round(1e3 * median(t), 1) for way, t in turns.seconds.items()},
        "cpu_ms_per_frame": {way: round(1e3 * median(t), 1) for way, t in turns.cpu.items()},
        "wall_cost": bounds(ratios(turns.seconds), 4),
        "cpu_cost": bounds(ratios(turns.cpu), 4),
        "writing_takes_more": alone,
    }
    record("service", [result], load_at_start=load)
    print(json.dumps(result, indent=2))


def ratios(taken: dict[str, list[float]]) -> list[float]:
    """What a service costs in each round."""
    return [s / r - 1 for s, r in zip(taken["service"], taken["run"], strict=True)]


if __name__ == "__main__":
    main()
