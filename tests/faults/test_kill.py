"""Killed at every step: nothing half-written is taken for whole, and the same command finishes the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.calibration.table import load_table
from segclip_deploy.errors import BadArtifact
from tests.conftest import EXAMPLE
from tests.support.faults import ROOT, leftovers, segclip

pytestmark = pytest.mark.faults

SIGNALS = ["SIGKILL", "SIGINT"]


def killed(number: str, *arguments: object, stride: int = 1) -> list[dict[str, Any]]:
    """Every attempt at a command that is killed at each step (see tests/support/killed.py)."""
    command = [
        sys.executable,
        "-m",
        "tests.support.killed",
        number,
        str(stride),
        *map(str, arguments),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    for one in attempts:
        assert "Traceback" not in one["stderr"], one["stderr"]
        if one["code"] == 130:
            assert "interrupted" in one["stderr"].splitlines()[-1]
    assert len(attempts) > 2
    assert attempts[-1]["code"] == 0, attempts[-1]["stderr"]
    expected = -signal.SIGKILL if number == "SIGKILL" else 130
    assert {one["code"] for one in attempts[:-1]} == {expected}
    return attempts


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
def test_export_killed_at_steps_all_over_it(
    number: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    killed(number, "export", tiny_checkpoint, "-o", out, "--size", "64x96", stride=3)
    load_bundle(out)
    if number == "SIGINT":
        assert not leftovers(tmp_path)


@pytest.mark.parametrize("when", range(4))
def test_a_directory_that_ctrl_c_meets_while_it_is_swapped_in_is_the_old_or_the_new(
    when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename, seen = tmp_path / "bundle", Path.replace, [0]

    def replace(self: Path, target: Path) -> Path:
        if seen[0] == when:
            seen[0] += 9
            raise KeyboardInterrupt
        made = rename(self, target)
        seen[0] += 2
        if seen[0] == when + 1:
            raise KeyboardInterrupt
        return made

    path.mkdir()
    (path / "bundle.json").write_text("old")
    monkeypatch.setattr(Path, "replace", replace)
    with (
        pytest.raises(KeyboardInterrupt),
        replace_directory(path, contents=["bundle.json"]) as temporary,
    ):
        (temporary / "bundle.json").write_text("new")
    assert (path / "bundle.json").read_text() == ("new" if when == 3 else "old")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("number", SIGNALS)
def test_calibrate_killed_at_every_step(number: str, tiny_bundle: Path, tmp_path: Path) -> None:
    tiles, out = tmp_path / "tiles.png", tmp_path / "t.json"
    with Image.open(EXAMPLE / "images" / "tile6_part8.jpg") as image:
        image.crop((0, 0, 512, 512)).save(tiles)
    common = ("calibrate", tiny_bundle, "--tiles", tiles, "--select", 40)
    killed(number, *common, "-o", out)
    whole = segclip(*common, "-o", tmp_path / "whole.json")
    assert whole.returncode == 0
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    load_table(out)
    if number == "SIGINT":
        assert {p.name for p in tmp_path.iterdir()} == {"t.json", "whole.json", "tiles.png"}


@pytest.mark.parametrize("number", SIGNALS)
def test_build_engine_killed_at_every_step(number: str, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.ort.onnx"
    killed(number, "build-engine", tiny_bundle, "-o", out)
    load_engine(out)
    assert out.read_bytes() == (tiny_bundle / "model.onnx").read_bytes()
    if number == "SIGINT":
        assert not leftovers(tmp_path)


@pytest.mark.parametrize("step", range(4))
def test_an_engine_whose_building_was_killed_between_its_files_is_refused(
    step: int, tiny_bundle: Path, open_bundle: Path, tmp_path: Path
) -> None:
    """Of an engine that replaces another: whichever files are new, the mixture never flies."""
    out, new = tmp_path / "e.ort.onnx", tmp_path / "new.ort.onnx"
    for bundle, place in ((tiny_bundle, out), (open_bundle, new)):
        assert segclip("build-engine", bundle, "-o", place).returncode == 0
    for suffix in (".golden.npz", ".json", "")[:step]:
        Path(f"{new}{suffix}").replace(f"{out}{suffix}")
    if step in (0, 3):
        load_engine(out)
    else:
        with pytest.raises(BadArtifact, match="build-engine"):
            load_engine(out)


@pytest.mark.parametrize("number", SIGNALS)
def test_run_killed_at_every_step(number: str, tiny_bundle: Path, tmp_path: Path) -> None:
    from tests.cli.test_run import images

    source, out = images(tmp_path / "in", 3), tmp_path / "out"
    attempts = killed(number, "run", tiny_bundle, source, "-o", out)
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    assert [line["labels"] for line in lines] == ["f000.png", "f001.png", "f002.png"]
    assert len(attempts) == 2 * 2 * 3 + 1  # a label map and an overlay, before and after
    once = tmp_path / "once"
    assert segclip("run", tiny_bundle, source, "-o", once).returncode == 0
    for path in once.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    if number == "SIGINT":
        assert not leftovers(out)


def test_benchmark_killed_at_every_step_keeps_every_byte(tiny_bundle: Path, tmp_path: Path) -> None:
    """SIGKILL; tables, bundles, engines and accuracies are those of a sweep that nobody disturbed."""
    from tests.tradeoff.test_benchmark import make_dataset

    data = make_dataset(tmp_path / "data")
    common = (
        *("benchmark", tiny_bundle, "--eval", data, "--calib", data, "--target", "onnxruntime"),
        *("--precision", "int8", "--threads", 1, "--samples", 10),
    )
    attempts = killed("SIGKILL", *common, "-o", tmp_path / "killed")
    assert len(attempts) > 12
    done = segclip(*common, "-o", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    compared = 0
    for path in sorted((tmp_path / "whole").rglob("*")):
        part = path.relative_to(tmp_path / "whole")
        made = {"tables", "accuracy", "bundles", "engines"} & set(part.parts)
        timed = path.suffix == ".json" and made == {"engines"}  # it says how long building took
        if path.is_file() and made and not timed and not path.name.endswith("bundle.json"):
            assert (tmp_path / "killed" / part).read_bytes() == path.read_bytes(), part
            compared += 1
    assert compared >= 6
    first, second = (
        json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "killed")
    )
    assert [r["miou"] for r in first["rows"]] == [r["miou"] for r in second["rows"]]
