"""Measuring ranges in a bundle, and the table that keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.scheme import Lowering, Scheme
from segclip_deploy.calibration import calibrate as module
from segclip_deploy.calibration.ranges import METHODS
from segclip_deploy.calibration.selection import TileSet, select_tiles
from segclip_deploy.calibration.table import (
    MeasuredTile,
    Range,
    check_table,
    load_table,
    save_table,
)
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.export.onnx_model import load_model, observer
from segclip_deploy.quantization.from_tiles import calibrate
from segclip_deploy.quantization.placement import find_probes
from tests.calibration.test_tiles import write_dataset
from tests.conftest import EXAMPLE
from tests.runtime.test_verify import edited, set_constant
from tests.support.helpers import call
from tests.support.records import small_table

TABLE = small_table(
    ranges={"b": Range(-1.0, 2.0, 2.0), "a": Range(0.0, 1e-7, 1e-7)},
    tiles=(MeasuredTile("x.png", 0, 64, "1" * 64),),
)


@pytest.fixture(scope="module")
def tiles() -> TileSet:
    """24 real tiles."""
    return select_tiles(find_tiles([EXAMPLE / "images"], InputSpec(64, 96)), 24)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_table(tmp_path / "t.json", TABLE)
    assert load_table(tmp_path / "t.json") == TABLE
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def widen(data: dict[str, Any]) -> None:
    data["graphs"]["cpu"]["ranges"]["b"][2] = 3.0


def to_nan(data: dict[str, Any]) -> None:
    data["graphs"]["cpu"]["ranges"]["b"][0] = float("nan")


def other_digest(data: dict[str, Any]) -> None:
    data["digest"] = "2" * 64


def other_tile(data: dict[str, Any]) -> None:
    data["tiles"][0]["sha256"] = "3" * 64


def huge(data: dict[str, Any]) -> None:
    data["graphs"]["cpu"]["ranges"]["b"][2] = 10**400


def short_range(data: dict[str, Any]) -> None:
    data["graphs"]["cpu"]["ranges"]["b"] = [1.0]


def no_digest(data: dict[str, Any]) -> None:
    del data["digest"]


def later(data: dict[str, Any]) -> None:
    data["schema"] = 99


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (widen, StaleArtifact, "edited since it was written; segclip-deploy calibrate"),
        (to_nan, BadArtifact, "NaN is not a number that JSON has"),
        (other_digest, StaleArtifact, "edited since"),
        (other_tile, StaleArtifact, "edited since"),
        (huge, BadArtifact, r"ranges\[...\]\[2\]: Number out of range; segclip-deploy calibrate"),
        (
            short_range,
            BadArtifact,
            r"ranges\[...\]: expected a list of at least length 3, got 1; segclip",
        ),
        (no_digest, StaleArtifact, "edited since"),
        (later, BadArtifact, "schema 99 is newer"),
    ],
)
@pytest.mark.faults
def test_an_edited_table_is_refused(
    edit: Callable[[dict[str, Any]], None],
    error: type[BadArtifact],
    said: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.json"
    save_table(path, TABLE)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(error, match=said) as caught:
        load_table(path)
    assert type(caught.value) is error


@pytest.mark.parametrize("text", ["", '{"schema": 1, "ranges": {"a": [1', "[]", "{}"])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BadArtifact):
        load_table(tmp_path / "t.json")
    with pytest.raises(BadArtifact):
        load_table(tmp_path / "absent.json")


@pytest.mark.faults
def test_a_table_of_another_bundle_is_refused_with_the_command(tiny_bundle: Path) -> None:
    with pytest.raises(StaleArtifact, match=f"calibrate {tiny_bundle} --tiles DIR"):
        check_table(TABLE, load_bundle(tiny_bundle))


def test_a_table_says_what_was_measured_and_on_what(
    tiny_bundle: Path, tiny_table: Path, tiles: TileSet
) -> None:
    table, bundle = load_table(tiny_table), load_bundle(tiny_bundle)
    check_table(table, bundle)
    assert table.bundle == sha256_file(tiny_bundle / "bundle.json")
    assert [t.sha256 for t in table.tiles] == [t.sha256 for t in tiles.tiles]
    pixels = np.stack([pixels for _, pixels in tiles])
    np.testing.assert_allclose(table.bands.mean, pixels.mean((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(table.bands.std, pixels.std((0, 1, 2)), atol=1e-3)
    assert table.coverage.pool > 900
    # Against all values at once.
    assert [*table.graphs] == [*bundle.lowerings] == [*Lowering]
    for scheme in Scheme:
        graph = bundle.for_scheme(scheme)
        model, ranges = load_model(graph.model_path), table.of(graph.lowering).ranges
        names = find_probes(model.graph, [scheme]).tensors
        assert list(ranges) == list(names)
        run = observer(model, names)
        runs = [run(tile[None]) for tile in pixels]
        for name, values in zip(names, zip(*runs, strict=True), strict=True):
            every, span = np.concatenate(values).ravel(), ranges[name]
            assert every.min() <= span.low <= span.high <= every.max()
            assert np.mean(np.abs(every) <= span.magnitude) >= 0.9999
            assert span.magnitude <= np.abs(every).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.faults
def test_killed_it_goes_on_and_gives_the_same_table(
    method: str, tiny_bundle: Path, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(tiny_bundle)
    monkeypatch.setattr(module, "_SAVE_EVERY", 8)
    whole, out = tmp_path / "whole" / "t.json", tmp_path / "t.json"
    calibrate(bundle, tiles, whole, method=method)
    seen: list[int] = []

    def report(done: int, total: int) -> None:
        assert total == 24
        seen.append(done)
        if len(seen) == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, tiles, out, method=method, report=report)
    assert not out.exists()
    calibrate(bundle, tiles, out, method=method, report=report)
    assert seen == [*range(1, 12), *range(9, 25)]
    assert out.read_bytes() == whole.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"t.json", "whole"}


@pytest.mark.faults
def test_a_state_of_other_tiles_or_a_damaged_one_is_no_start(
    tiny_bundle: Path, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = load_bundle(tiny_bundle), tmp_path / "t.json"
    monkeypatch.setattr(module, "_SAVE_EVERY", 4)
    others = replace(tiles, tiles=tiles.tiles[:16])

    def stop(done: int, _total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, others, out, method="minmax", report=stop)
    state = tmp_path / "t.json.resume.npz"
    left = state.read_bytes()
    seen: list[int] = []
    for damage in (left, left[:1000], b""):
        state.write_bytes(damage)
        seen.clear()
        calibrate(bundle, tiles, out, method="minmax", report=lambda done, _: seen.append(done))
        assert seen == list(range(1, 25))
        assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
        out.unlink()


def test_batches_give_the_ranges_of_single_tiles_and_save_their_state(
    open_bundle: Path, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, out = load_bundle(open_bundle), tmp_path / "t.json"
    threes = replace(
        single, record=records.replace(single.record, input=InputSpec(64, 96, batch=3))
    )
    one = calibrate(single, tiles, out, method="percentile")
    monkeypatch.setattr(module, "_SAVE_EVERY", 8)  # passed at 9, and not met until 24
    states: list[bool] = []
    three = calibrate(
        threes,
        tiles,
        tmp_path / "threes.json",
        method="percentile",
        report=lambda *_: states.append((tmp_path / "threes.json.resume.npz").exists()),
    )
    assert states == [False, False, *[True] * 6]
    assert three.bands == one.bands
    for name, span in one.of(Lowering.CPU).ranges.items():
        # Sums in another order may move a value over the edge of a bin.
        np.testing.assert_allclose(
            [*three.of(Lowering.CPU).ranges[name].to_json()],
            [*span.to_json()],
            atol=2 * span.magnitude / 1024,
        )
    with pytest.raises(BadInput, match=r"16 tiles do not fill batches of 3; .*--batch 1"):
        calibrate(threes, replace(tiles, tiles=tiles.tiles[:16]), out, method="minmax")


def test_what_is_not_finite_is_named_with_the_tile_that_shows_it(
    tiny_bundle: Path, tiles: TileSet, tmp_path: Path
) -> None:
    def poison(graph: onnx.GraphProto) -> None:
        (second, *_) = [n for n in graph.node if n.name == "encoder.stage1/Conv"]
        set_constant(graph, second.input[1], lambda old: np.full_like(old, np.nan))

    bundle = load_bundle(edited(tiny_bundle, tmp_path / "bundle", poison))
    with pytest.raises(BadInput, match="is not finite on this tile") as caught:
        calibrate(bundle, tiles, tmp_path / "t.json", method="percentile")
    names = find_probes(load_model(bundle.model_path).graph).tensors
    assert str(caught.value).startswith(str(tiles.tiles[0].source))
    assert caught.value.what.split()[0] in names
    assert {p.name for p in tmp_path.iterdir()} == {"bundle"}


def test_the_command_calibrates_on_tiles_of_every_class(tiny_bundle: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "t.json", tmp_path / "sheet.png"
    images = write_dataset(tmp_path / "data", train=[*range(20)], val=[90])
    arguments = ("calibrate", tiny_bundle, "--tiles", images, "--eval", images, "-o", out)
    result = call(*arguments, "--select", 18, "--sheet", sheet)
    assert result.exit_code == 0, result.stderr
    table = load_table(out)
    assert f"18 of {table.coverage.pool} tiles from 20 images" in result.stdout
    for lowering in Lowering:
        ranges = table.of(lowering).ranges
        assert f"{len(ranges)} ranges of the graph for {lowering.value}" in result.stdout
    assert Image.open(sheet).width > 100
    again = call(*arguments, "--select", 18, "--json")
    assert json.loads(again.stdout) == json.loads(out.read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Missing option '--tiles'"),
        (["--tiles", "{data}"], 2, "Missing option '-o'"),
        (["--tiles", "{data}", "-o", "{tmp}/t.json", "--method", "best"], 2, "'best' is not one"),
        (["--tiles", "{data}", "-o", "{tmp}/t.json", "--select", "15"], 1, "--select: 15 tiles"),
        (["--tiles", "{data}/images/00.png", "-o", "{tmp}/t.json"], 1, "calibration needs 16"),
        (["--tiles", "{tmp}/none", "-o", "{tmp}/t.json"], 1, "none"),
        (
            ["--tiles", "{data}/images", "-o", "{tmp}/t.json", "--eval", "{data}"],
            1,
            "split 'val' there is for evaluation",
        ),
    ],
)
def test_mistakes_are_refused_and_leave_nothing(
    arguments: list[str], code: int, said: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", train=[*range(17)], val=[90])
    words = [word.format(data=data, tmp=tmp_path) for word in arguments]
    result = call("calibrate", tiny_bundle, *words)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert {p.name for p in tmp_path.iterdir()} == {"data"}
