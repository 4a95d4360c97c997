"""Does ``run`` stay as it is for as long as a flight? Memory, threads and open files, watched from outside.

    python benchmarks/soak.py ENGINE [IMAGES] [--minutes 30] [--threads 1]
    python benchmarks/soak.py ENGINE --source 'gst:videotestsrc is-live=true ! video/x-raw,format=NV12,width=640,height=480,framerate=30/1'

The real command flies the middles of IMAGES, one window each, again and again (as links in a folder,
more than the time allows), and is ended as a pilot ends it, by SIGINT. Every second /proc tells its
resident memory, threads and open files. ``--source`` names a camera or a pipeline in place of the images;
its result goes to results/soak-live.json. The rule, after five minutes of warm-up:

- resident memory: the line of least squares rises by less than 6 MB an hour;
- threads: as many all the time;
- open files: the fewest of the last third are those of the first third (a leak never closes them);
- the command ends with exit code 130, and has written a line for every frame.

Writes results/soak.json; exit code 3 where the rule is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import ROOT, record

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.runtime.inference.frame import list_images, prepare, read_frame
from segclip_deploy.runtime.open_engine import open_segmenter

MAIN = "from segclip_deploy.cli import main; main()"
WARM_UP_S = 300.0
MAX_MB_PER_HOUR = 6.0
FASTEST_FPS = 60  # so many links are made that no engine runs out of them


def middles(images: list[Path], folder: Path, spec: InputSpec) -> list[Path]:
    """The middles of images, of the engine's input size, as JPEG."""
    made = []
    for path in images:
        pixels = prepare(read_frame(path), spec.height, spec.width)
        top, left = (
            (side - size) // 2
            for side, size in zip(pixels.shape[:2], (spec.height, spec.width), strict=True)
        )
        made.append(folder / f"{path.stem}.jpg")
        middle = pixels[top : top + spec.height, left : left + spec.width]
        Image.fromarray(middle).save(made[-1], quality=95)
    return made


def links(images: Path, folder: Path, spec: InputSpec, count: int) -> list[Path]:
    """Fill a folder with so many links to the middles of images; the middles."""
    folder.mkdir()
    made = middles(list_images(images), folder.parent, spec)
    for number, image in enumerate(islice(cycle(made), count)):
        (folder / f"{number:07d}.jpg").symlink_to(image)
    return made


def sample(pid: int) -> tuple[float, int, int]:
    """Resident MB, threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return (
        int(values["VmRSS"].split()[0]) * 1024 / 1e6,
        int(values["Threads"]),
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 (names only, and fast)
    )


def watch(process: subprocess.Popen[bytes], seconds: float) -> np.ndarray:
    """Rows of (seconds, MB, threads, files), one a second, until the time is over."""
    rows, started = [], time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        if process.poll() is not None:
            sys.exit(f"run ended by itself after {passed:.0f} s with {process.returncode}")
        rows.append((passed, *sample(process.pid)))
        time.sleep(1)
    return np.array(rows)


def five_minutes(rows: np.ndarray) -> list[float]:
    """Median resident MB of every five minutes, the warm-up first."""
    parts = [rows[rows[:, 0] // 300 == n, 1] for n in range(int(rows[-1, 0] // 300) + 1)]
    return [round(float(np.median(part)), 2) for part in parts]


def judge(rows: np.ndarray, warm_up: float) -> dict[str, Any]:
    """What the rule says of the samples after the warm-up."""
    seconds, memory, threads, files = rows[rows[:, 0] >= warm_up].T
    slope = float(np.polyfit(seconds / 3600, memory, 1)[0])
    third = max(1, len(files) // 3)
    fewest = [int(part.min()) for part in (files[:third], files[-third:])]
    return {
        "samples": len(seconds),
        "rss_mb": {
            "mean": round(float(memory.mean()), 1),
            "min": round(float(memory.min()), 1),
            "max": round(float(memory.max()), 1),
            "five_minutes": five_minutes(rows),
            "slope_per_hour": round(slope, 2),
            "allowed_per_hour": MAX_MB_PER_HOUR,
        },
        "threads": sorted({int(n) for n in threads}),
        "open_files_fewest": fewest,
        "open_files_most": int(files.max()),
        "steady": slope < MAX_MB_PER_HOUR and len(set(threads)) == 1 and fewest[1] <= fewest[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument(
        "images", type=Path, nargs="?", default=ROOT / "examples" / "dubai" / "images"
    )
    parser.add_argument("--source", help="a camera or pipeline, in place of images")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    seconds = 60 * given.minutes
    with open_segmenter(given.engine) as segmenter:
        spec = segmenter.spec
    with tempfile.TemporaryDirectory() as scratch:
        out, frames = Path(scratch) / "out", Path(scratch) / "frames"
        images = (
            [] if given.source else links(given.images, frames, spec, int(FASTEST_FPS * seconds))
        )
        source = given.source or frames
        command = [sys.executable, "-c", MAIN, "run", given.engine, source, "-o", out]
        command += ["--threads", str(given.threads), "--keep", "20MB", "--json"]
        with (Path(scratch) / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdout=subprocess.PIPE, stderr=log
            )
            rows = watch(process, seconds)
            process.send_signal(signal.SIGINT)
            report = json.loads(process.communicate(timeout=120)[0])
        lines = (out / "areas.jsonl").read_text().splitlines()
    found = judge(rows, min(WARM_UP_S, seconds / 3))
    whole = process.returncode == 130 and len(lines) == report["done"]
    shown = (
        {"source": given.source, "dropped": report["dropped"], "reconnects": report["reconnects"]}
        if given.source
        else {"images": {"count": len(images), "folder": given.images.name}}
    )
    result = {
        "engine": report["engine"],
        "engine_threads": given.threads,
        "input": spec.sides,
        **shown,
        "minutes": given.minutes,
        "frames": report["done"],
        "frames_per_second": report["fps"],
        "ended_well": whole,
        **found,
    }
    record("soak-live" if given.source else "soak", [result])
    print(json.dumps(result, indent=2))
    if not (whole and found["steady"]):
        sys.exit(3)


if __name__ == "__main__":
    main()
