"""Health of frames: false alarms on real ones, what is found of night, fog and blur, and what a look costs.

    python benchmarks/health.py DATA [--engine ENGINE]

DATA has the folders dubai, uav_frames_brighton, uavid_gif_lossy, loveda_mmseg and isaid_devkit. The cloud
of tiles is that of Dubai's train. Night, fog and blur are made of Dubai's val by the formulas in
``tests/support/weather.py``. Costs: median and least of 200 looks at one frame, on one thread. With ENGINE, of
512²: the same frames are labelled 8 times, in turns with looks at them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from record import ROOT, record

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.calibration.likeness import fit_appearance
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.health import FrameHealth, check_health
from segclip_deploy.runtime.open_engine import open_segmenter

sys.path.insert(0, str(ROOT))
from tests.support.weather import fog, motion_blur, night, underexposed

WINDOW = (512, 512)
LOOKS = 200
ROUNDS = 8
CHANGES: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    **{f"motion {n} px": lambda p, n=n: motion_blur(p, n, 30.0) for n in (5, 9, 15, 25)},
    **{f"fog, {v} m": lambda p, v=v: fog(p, 100.0, v) for v in (1000, 500, 300, 200)},
    **{f"night, γ {g}": lambda p, g=g: night(p, g) for g in (2, 3, 4, 5)},
    **{f"{s} stops less": lambda p, s=s: underexposed(p, s) for s in (2, 4, 5, 6)},
    **{f"{s} stops more": lambda p, s=s: underexposed(p, -s) for s in (1, 2, 3)},
}


def frames(paths: Iterable[Path]) -> list[Frame]:
    return [Frame(np.asarray(Image.open(path).convert("RGB")), path.name) for path in paths]


def told(name: str, looks: list[FrameHealth]) -> dict[str, Any]:
    """What was found in some frames, printed and returned."""
    counts = Counter(problem for look in looks for problem in look.problems)

    def extremes(what: str) -> list[float]:
        values = [value for look in looks if (value := getattr(look, what)) is not None]
        return [round(float(v), 3) for v in (min(values), median(values), max(values))]

    row = {
        "frames": name,
        "count": len(looks),
        "unhealthy": sum(bool(look.problems) for look in looks),
        **counts,
        **{what: extremes(what) for what in ("bright_part", "median", "blur", "unlike")},
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)
    return row


def cost(
    name: str, frame: Frame, appearance: Appearance | None, engine: Path | None
) -> dict[str, Any]:
    """Milliseconds of a look, and of labelling the same frame."""
    looks = [check_health(frame, WINDOW, appearance).ms for _ in range(LOOKS)]
    height, width = frame.pixels.shape[:2]
    row: dict[str, Any] = {"cost": name, "pixels": [height, width]}
    row |= {"median_ms": round(median(looks), 3), "least_ms": round(min(looks), 3)}
    if engine is not None:
        with open_segmenter(engine) as segmenter:
            segmenter.segment(frame)  # warms up
            turns = []
            for _ in range(ROUNDS):
                look = check_health(frame, WINDOW, appearance).ms
                turns.append((look, segmenter.segment(frame).times.total))
            look, labelling = (median(values) for values in zip(*turns, strict=True))
            row |= {"engine": segmenter.backend.name, "in_turns_ms": round(look, 3)}
            row |= {"labelling_ms": round(labelling, 1), "share": round(look / labelling, 5)}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--engine", type=Path)
    given = parser.parse_args()
    data = given.data
    pool = find_tiles([data / "dubai"], InputSpec(*WINDOW))
    appearance = fit_appearance(pool)
    print(len(pool.tiles), appearance, flush=True)
    brighton = sorted((data / "uav_frames_brighton/images_1600x900").iterdir())
    rows = []
    split = json.loads((data / "dubai/split.json").read_text())
    sets = {
        f"Dubai {name}": [next((data / "dubai/images").glob(f"{one}.*")) for one in split[name]]
        for name in ("train", "plan", "val", "val_cross_tile")
    }
    sets["Brighton"] = brighton
    sets["UAVid"] = sorted((data / "uavid_gif_lossy/images").iterdir())
    sets["LoveDA"] = sorted((data / "loveda_mmseg/images").rglob("*.png"))
    sets["iSAID"] = sorted((data / "isaid_devkit/images").rglob("*.png"))
    for name, paths in sets.items():
        looks = [check_health(frame, WINDOW, appearance) for frame in frames(paths)]
        rows.append(told(name, looks))
    judged = frames(sets["Dubai val"])
    for name, change in CHANGES.items():
        changed = [Frame(change(frame.pixels), frame.source) for frame in judged]
        rows.append(told(name, [check_health(one, WINDOW, appearance) for one in changed]))
    small = frames(brighton[:1])[0]
    large = frames(sorted((data / "uav_frames_brighton/images_full").iterdir())[:1])[0]
    large = Frame(np.ascontiguousarray(large.pixels[:2160, :3840]), "4K")
    for name, frame in (("1600 × 900", small), ("3840 × 2160", large)):
        rows.append(cost(name, frame, appearance, given.engine))
    record("health", rows, window=WINDOW, looks=LOOKS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
