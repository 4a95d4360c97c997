"""Rasters over the workers of a Dask cluster: the bytes of one process, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from segclip_deploy.cluster.block_store import BlockStore, cut_blocks
from segclip_deploy.cluster.map_rasters import FailedRaster, Mapped, map_rasters
from segclip_deploy.cluster.pool import Failed, Job, Pool, local_pool
from segclip_deploy.cluster.work import JobSpec
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact
from segclip_deploy.runtime.io.raster.grid import RasterGrid
from segclip_deploy.runtime.io.raster.segment import segment_raster, settings_digest
from segclip_deploy.runtime.io.raster.source import Reading, describe_raster
from segclip_deploy.runtime.open_engine import engine_sha256, open_segmenter
from tests.runtime.io.raster.test_rasters import holes
from tests.support.helpers import call, edited
from tests.support.rasters import labels_in, noise, segmenter, write_raster


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with local_pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def rasters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A high one, one with holes, one smaller than a window."""
    folder = tmp_path_factory.mktemp("rasters")
    return [
        write_raster(folder / "high.tif", noise(1600, 130)),
        write_raster(folder / "holes.tif", noise(900, 330), mask=holes(900, 330), tiled=True),
        write_raster(folder / "small.tif", noise(50, 70)),
    ]


@pytest.fixture(scope="module", params=["blended, resampled", "labels only"])
def engine(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny bundle, for images of 0.8 m; and with labels alone, for images of any scale."""
    out = tmp_path_factory.mktemp("engine") / "bundle"
    model = onnx.load(tiny_bundle / "model.onnx")
    if request.param == "labels only":
        assert model.graph.output.pop().name == "logits"
        edited(tiny_bundle, out, model, outputs=["labels"])
    else:
        vocabulary = json.loads((tiny_bundle / "bundle.json").read_text())["vocabulary"]
        vocabulary["ground_sample_distance_m"] = 0.8
        edited(tiny_bundle, out, model, vocabulary=vocabulary)
    return out


def in_one_process(engine: Path, sources: list[Path], out: Path) -> dict[str, bytes]:
    """The bytes that ``run`` writes."""
    out.mkdir(parents=True, exist_ok=True)
    with open_segmenter(engine, threads=1) as flyer:
        for source in sources:
            raster = describe_raster(source, Reading(), flyer.vocabulary.ground_sample_distance_m)
            digest = settings_digest(flyer, raster, engine_sha256(engine))
            segment_raster(flyer, raster, out / source.name, digest=digest)
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def spec_for(engine: Path) -> JobSpec:
    return JobSpec(engine, engine_sha256(engine), Reading(), threads=1)


def mapped(
    pool: Pool,
    engine: Path,
    sources: list[Path],
    out: Path,
    report: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> list[Mapped | FailedRaster]:
    out.mkdir(parents=True, exist_ok=True)
    targets = {source: out / source.name for source in sources}
    return list(map_rasters(pool, spec_for(engine), targets, report=report))


def pids(pool: Pool) -> list[int]:
    return list(pool._client.run(os.getpid).values())


# ---- blocks


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("own", [(1, 1), (64, 96), (3000, 200), (999, 97)])
@pytest.mark.parametrize("scale", [0.3, 1, 3.7])
def test_blocks_tile_a_raster_and_are_of_a_bounded_height(
    own: tuple[int, int], scale: float, logits: bool
) -> None:
    height, width = (max(1, round(side * scale)) for side in own)
    blocks = cut_blocks(segmenter(logits=logits), RasterGrid(own, (height, width)))
    assert [blocks[0][0], blocks[-1][1]] == [0, own[0]]
    assert all(above[1] == below[0] for above, below in pairwise(blocks))
    # 8 rows of windows and a half at most, 48 pixels apart, and the last is up to a window higher.
    assert all(0 < bottom - top <= 13 * 48 / scale + 64 / scale for top, bottom in blocks)


@pytest.mark.faults
def test_a_block_is_there_when_it_is_whole(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "a.tif", "digest", 10)
    with suppress(KeyError), store.put((0, 2)) as write:
        write(np.zeros((1, 10), np.uint8))
        raise KeyError
    assert not store.has((0, 2))
    assert list(store.folder.iterdir()) == []
    with store.put((0, 2)) as write:
        write(np.zeros((2, 10), np.uint8))
    assert store.has((0, 2))
    os.truncate(store.path((0, 2)), 19)
    assert not store.has((0, 2))
    store.sweep(((0, 4),))
    assert list(store.folder.iterdir()) == []


# ---- a cluster


def test_the_bytes_are_those_of_one_process_and_a_second_call_does_nothing(
    pool: Pool, engine: Path, rasters: list[Path], tmp_path: Path
) -> None:
    expected = in_one_process(engine, rasters, tmp_path / "once")
    assert set(np.unique(labels_in(tmp_path / "once" / "high.tif"))) >= {0, 1, 4}
    out, blocks = tmp_path / "out", []
    results = mapped(pool, engine, rasters, out, lambda _, done, total: blocks.append(total))
    assert [type(result) for result in results] == [Mapped] * 3
    assert blocks[-1] >= 4  # the high one is cut
    assert written(out) == expected
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = mapped(pool, engine, rasters, out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    by_name = {result.source: result.labelled for result in results}
    for result in again:
        labelled = result.labelled
        assert (labelled.windows, labelled.kept) == (0, labelled.size[0])
        assert labelled.areas == by_name[result.source].areas


@pytest.mark.faults
def test_workers_that_are_killed_change_no_byte(
    pool: Pool, engine: Path, rasters: list[Path], tmp_path: Path
) -> None:
    expected = in_one_process(engine, rasters, tmp_path / "once")
    before = pids(pool)

    def kill(what: str, done: int, _total: int) -> None:
        if (what, done) == ("labelling", 1):
            for pid in before:  # each is at another block
                os.kill(pid, signal.SIGKILL)

    results = mapped(pool, engine, rasters, tmp_path / "out", kill)
    assert [type(result) for result in results] == [Mapped] * 3
    assert not set(before) & set(pids(pool))
    assert written(tmp_path / "out") == expected


@pytest.mark.faults
def test_an_interrupted_call_goes_on_with_the_blocks_that_are_there(
    pool: Pool, tiny_bundle: Path, tmp_path: Path
) -> None:
    def interrupt(what: str, done: int, _total: int) -> None:
        if (what, done) == ("labelling", 2):
            raise KeyboardInterrupt

    out, source = tmp_path / "out", write_raster(tmp_path / "a.tif", noise(4000, 130))
    with pytest.raises(KeyboardInterrupt):
        mapped(pool, tiny_bundle, [source], out, interrupt)
    assert not (out / "a.tif").exists()
    (result,) = mapped(pool, tiny_bundle, [source], out)
    assert 0 < result.labelled.kept < 4000
    assert written(out) == in_one_process(tiny_bundle, [source], tmp_path / "once")


@pytest.mark.faults
def test_a_block_that_keeps_failing_is_reported_and_the_rest_is_done(
    pool: Pool, tiny_bundle: Path, rasters: list[Path], tmp_path: Path
) -> None:
    bad = write_raster(tmp_path / "bad.tif", noise(1600, 130), compress="deflate", blockysize=16)
    data = bytearray(bad.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 20] = bytes(20)
    bad.write_bytes(data)
    out = tmp_path / "out"
    results = mapped(pool, tiny_bundle, [bad, rasters[2]], out)
    good = [result for result in results if isinstance(result, Mapped)]
    failures = [result for result in results if isinstance(result, FailedRaster)]
    assert [result.source for result in good] == [rasters[2]]
    assert {(f.source, f.doing) for f in failures} == {(bad, "label")}
    told = failures[0].to_json()
    assert told["error"].startswith(f"{bad}: damaged or unreadable (")
    assert "in label_rows" in told["traceback"]
    assert not (out / "bad.tif").exists()
    store = out / ".segclip-deploy.bad.tif.blocks"
    assert len(list(store.iterdir())) >= 1  # of its other blocks


@pytest.mark.faults
def test_a_job_that_kills_its_workers_takes_no_other_with_it(pool: Pool) -> None:
    good = [Job(abs, (-number,)) for number in range(6)]
    answers = list(pool.do(deque([*good[:3], Job(os._exit, (1,)), *good[3:]])))
    assert sorted(answer for _, answer in answers if isinstance(answer, int)) == [*range(6)]
    (failed,) = [answer for _, answer in answers if isinstance(answer, Failed)]
    assert "died while running it" in str(failed.error)


@pytest.mark.faults
def test_workers_that_are_gone_are_brought_back_before_they_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without them the call once waited for ever."""
    monkeypatch.setattr("segclip_deploy.cluster.pool._WAIT", 0.2)
    workers: dict[str, Any] = {}

    def wait(_count: int, *, timeout: float) -> None:
        if not workers:
            raise TimeoutError(f"none in {timeout} s")

    client = SimpleNamespace(
        scheduler_info=lambda n_workers: {"workers": workers},
        wait_for_workers=wait,
        run=lambda _function, _paths, *, workers, on_error: dict.fromkeys(workers),
    )
    revived = Pool(client, {}, lambda: workers.update({"tcp://here": {"resources": {}}}))
    revived.check_sees(())
    workers.clear()
    with pytest.raises(BadInput, match="the cluster: no worker in"):
        Pool(client, {}).check_sees(())


@pytest.mark.faults
def test_a_worker_that_ends_while_it_is_asked_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its closed connection once ended the call with an error of Dask."""
    from distributed.comm import CommClosedError

    ended: Any = CommClosedError("closed")
    said = [{"tcp://a": ended}, {"tcp://a": ended, "tcp://b": "/nowhere"}]
    client = SimpleNamespace(
        scheduler_info=lambda n_workers: {"workers": {"tcp://a": {"resources": {}}}},
        run=lambda *_, **__: said.pop(0) if said else {"tcp://a": ended},
    )
    with pytest.raises(BadInput, match="worker tcp://b: does not see /nowhere"):
        Pool(client, {}).check_sees(())
    monkeypatch.setattr("segclip_deploy.cluster.pool._WAIT", 0.3)
    with pytest.raises(BadInput, match="the cluster: no worker answered in"):
        Pool(client, {}).check_sees(())


@pytest.mark.faults
def test_workers_that_cannot_work_end_the_call(
    pool: Pool, tiny_bundle: Path, rasters: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"worker tcp://.* does not see .*nowhere; engine, rasters"):
        pool.check_sees((tmp_path, tmp_path / "nowhere"))
    targets = {rasters[2]: tmp_path / "small.tif"}
    other = JobSpec(tiny_bundle, "of another engine", Reading())
    with pytest.raises(StaleArtifact, match="is another engine than where map was called"):
        list(map_rasters(pool, other, targets))
    version = JobSpec(tiny_bundle, engine_sha256(tiny_bundle), Reading(), version="0.0.1")
    with pytest.raises(BadArtifact, match=r"segclip-deploy is .*; install 0\.0\.1 on it"):
        list(map_rasters(pool, version, targets))


# ---- the command


def test_the_command_on_workers_of_its_own(
    tiny_bundle: Path, rasters: list[Path], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.tif"
    plain.write_bytes(b"")
    out = tmp_path / "out"
    command = ["map", rasters[0], plain, rasters[2], "--engine", tiny_bundle, "-o", out]
    result = call(*command, "--workers", 2, "--threads", 1, "--json")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert report["workers"] == 2
    assert [Path(line["image"]) for line in report["rasters"]] == [rasters[2], rasters[0]]
    (failure,) = report["failed"]
    assert failure["error"].startswith(f"{plain}: is no raster that has a place")
    (kept,) = json.loads((out / "map-failures.json").read_text())["failed"]
    assert "in survey" in kept["traceback"]
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    assert lines == report["rasters"]
    below = rasters[0].parent.name  # beside the folder of the plain one
    in_one_process(tiny_bundle, [rasters[0], rasters[2]], tmp_path / "once" / below)
    assert {
        n: data for n, data in written(out).items() if not n.endswith(("json", "jsonl"))
    } == written(tmp_path / "once")


def test_rasters_of_one_name_in_two_folders_are_kept_apart(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    source, ran, mapped = tmp_path / "in", tmp_path / "ran", tmp_path / "mapped"
    for seed, folder in enumerate(("north", "south")):
        (source / folder).mkdir(parents=True)
        write_raster(source / folder / "ortho.tif", noise(90, 130, seed))
    one = call("run", tiny_bundle, source, "-o", ran, "--polygons", "--threads", 1)
    assert one.exit_code == 0, one.output
    many = call("map", source, "--engine", tiny_bundle, "-o", mapped, "--threads", 1)
    assert many.exit_code == 0, many.output
    for result in (one, many):
        assert "2 images in 2 folders" in result.stderr.splitlines()
    for out, polygons in ((ran, "{}/ortho.geojson"), (mapped, None)):
        lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
        assert sorted((line["labels"], line["polygons"]) for line in lines) == [
            (f"{folder}/ortho.tif", polygons and polygons.format(folder))
            for folder in ("north", "south")
        ]
    assert (labels_in(ran / "north/ortho.tif") != labels_in(ran / "south/ortho.tif")).any()
    names = [f"{f}/ortho.tif{end}" for f in ("north", "south") for end in ("", ".aux.xml")]
    expected = written(ran)
    assert {n: expected[n] for n in names} == {n: written(mapped)[n] for n in names}
    assert sorted(written(mapped)) == sorted([*names, "areas.jsonl"])


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler, and a worker that says it has a GPU, as a user starts them."""
    file = tmp_path / "scheduler.json"
    shared = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
    alone = ["--nthreads", "1", "--resources", "gpu=1", "--local-directory", tmp_path]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{part}", *shared, *options],
            stderr=subprocess.DEVNULL,
        )
        for part, options in (("scheduler", ["--port", "0"]), ("worker", alone))
    ]
    try:
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def test_the_command_on_a_scheduler_that_runs_already(
    tiny_bundle: Path, rasters: list[Path], tmp_path: Path, scheduler: str
) -> None:
    out = tmp_path / "out"
    command = ["map", *rasters, "--engine", tiny_bundle, "-o", out, "--scheduler", scheduler]
    result = call(*command, "--require", "gpu=2")
    assert result.exit_code == 1
    assert "none of its workers has gpu=2; dask worker tcp://" in result.stderr
    result = call(*command, "--require", "gpu=1", "--threads", 1)
    assert result.exit_code == 0, result.output
    expected = in_one_process(tiny_bundle, rasters, tmp_path / "once")
    assert {n: data for n, data in written(out).items() if n != "areas.jsonl"} == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers are started here"),
        (["--require", "gpu=1"], "--require is for --scheduler"),
        (["--require", "gpu"], "is no resource like gpu=1"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str, tmp_path: Path) -> None:
    result = call("map", tmp_path, "--engine", tmp_path, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert said in result.stderr
