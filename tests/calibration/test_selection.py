"""Choosing tiles: covering, guarantees for classes, and the page that shows them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.calibration.coverage import distances, measure_coverage
from segclip_deploy.calibration.selection import TileSet, farthest_first, select_tiles
from segclip_deploy.calibration.sheet import contact_sheet
from segclip_deploy.calibration.table import ClassShares
from segclip_deploy.calibration.tiles import MIN_TILES, Tile, TilePool, find_tiles
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.pictures import open_windows
from tests.calibration.test_tiles import picture, write_pictures
from tests.conftest import EXAMPLE, SHARED
from tests.support.fakes import classes_of

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

# Whole numbers, so that ties and equal rows occur.
CLOUDS = arrays(np.float64, st.tuples(st.integers(2, 9), st.just(2)), elements=st.integers(-4, 4))


@pytest.fixture(scope="module")
def pool() -> TilePool:
    """Real tiles, of the shipped images."""
    return find_tiles([EXAMPLE / "images"], InputSpec(128, 128))


@PROPERTY
@given(CLOUDS, st.data())
def test_farthest_first_yields_distinct_rows_that_cover_more_and_more(
    points: NDArray[np.float64], data: st.DataObject
) -> None:
    rows = st.integers(0, len(points) - 1)
    seeds = data.draw(st.lists(rows, min_size=1, max_size=len(points), unique=True))
    order = farthest_first(points, len(points), seeds)
    assert order[: len(seeds)] == seeds
    assert sorted(order) == list(range(len(points)))
    counts = range(len(seeds), len(points) + 1)
    assert [farthest_first(points, n, seeds) for n in counts] == [order[:n] for n in counts]
    radii = [distances(points, order[:n]).max() for n in counts]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 0


@PROPERTY
@given(CLOUDS, st.data())
def test_farthest_first_is_within_twice_the_best(
    points: NDArray[np.float64], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(points)))
    seed = data.draw(st.integers(0, len(points) - 1))
    best = min(distances(points, c).max() for c in combinations(range(len(points)), n))
    assert distances(points, farthest_first(points, n, [seed])).max() <= 2 * best + 1e-9


def test_a_selection_of_real_tiles_is_a_part_of_the_pool_and_always_the_same(
    pool: TilePool,
) -> None:
    chosen = select_tiles(pool, 24)
    assert select_tiles(pool, 24) == chosen
    assert len(chosen) == len(set(chosen.tiles)) == 24
    assert list(chosen.tiles) == [tile for tile in pool.tiles if tile in chosen.tiles]
    assert chosen.coverage.radius < chosen.coverage.random_radius
    assert chosen.dominant is None
    for tile, pixels in chosen:
        np.testing.assert_array_equal(chosen.read(tile), pixels)


def test_a_small_pool_is_taken_whole_and_covered_in_full(pool: TilePool) -> None:
    whole = select_tiles(pool, 10_000)
    assert whole.tiles == pool.tiles
    assert whole.coverage.radius == whole.coverage.random_radius == 0
    assert [span.covered for span in whole.coverage.spans] == [1.0] * 6


def test_fewer_tiles_than_the_minimum_are_refused(pool: TilePool) -> None:
    with pytest.raises(BadInput, match="--select: 15 tiles are too few"):
        select_tiles(pool, MIN_TILES - 1)


def labelled(pool: TilePool, rare: dict[int, int], left: list[int]) -> TileSet:
    """Choose 16 tiles, where row r of the pool has ``rare[r]`` pixels of class 3, all others class 0."""
    rows = iter(range(len(pool.tiles)))

    def labels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        answer = np.zeros(pixels.shape[:2], dtype=np.uint8)
        answer.ravel()[: rare.get(next(rows), 0)] = 3
        return answer

    return select_tiles(pool, 16, labels=labels, report=lambda done, _: left.append(done))


def test_a_rare_class_brings_its_two_richest_tiles(pool: TilePool) -> None:
    ordinary = set(select_tiles(pool, 16).tiles)
    a, b, c, d = [row for row, tile in enumerate(pool.tiles) if tile not in ordinary][:4]
    enough = round(0.001 * len(pool.tiles) * 128 * 128) + 1
    rare = {a: enough // 6, b: enough // 3, c: enough // 3, d: enough // 6 + 3}
    calls: list[int] = []
    chosen = labelled(pool, rare, calls)
    assert {pool.tiles[b], pool.tiles[c]} <= set(chosen.tiles)
    assert calls == list(range(1, len(pool.tiles) + 1))
    shares = {share.index: share for share in chosen.coverage.classes}
    pixels = len(pool.tiles) * 128 * 128
    assert set(shares) == {0, 3}
    assert shares[3].pool == pytest.approx(sum(rare.values()) / pixels)
    in_chosen = sum(n for row, n in rare.items() if pool.tiles[row] in chosen.tiles)
    assert shares[3].chosen == pytest.approx(in_chosen / (16 * 128 * 128))
    assert chosen.dominant == (0,) * 16


def test_every_class_of_real_tiles_is_there_with_its_two_richest(pool: TilePool) -> None:
    chosen = select_tiles(pool, 16, labels=classes_of)
    pixels = dict(select_tiles(pool, 10_000))
    counts = np.array([np.bincount(classes_of(p).ravel(), minlength=5) for p in pixels.values()])
    guaranteed = np.flatnonzero(counts.sum(axis=0) / counts.sum() >= 0.001)
    assert len(guaranteed) >= 4
    for k in guaranteed:
        first, second = np.argsort(-counts[:, k], kind="stable")[:2]
        assert {pool.tiles[first], pool.tiles[second]} <= set(chosen.tiles)
    rows = [pool.tiles.index(tile) for tile in chosen.tiles]
    assert chosen.dominant == tuple(counts[rows].argmax(axis=1))


def test_a_class_that_only_one_tile_has_brings_that_one(pool: TilePool) -> None:
    ordinary = set(select_tiles(pool, 16).tiles)
    row = next(row for row, tile in enumerate(pool.tiles) if tile not in ordinary)
    assert pool.tiles[row] in labelled(pool, {row: 128 * 128}, []).tiles


def test_more_classes_than_the_selection_holds_are_refused_with_the_number(
    pool: TilePool,
) -> None:
    rows = iter(range(len(pool.tiles)))
    with pytest.raises(BadInput, match=r"cannot hold .*; at least 4\d") as caught:
        select_tiles(
            pool, 16, labels=lambda p: np.full(p.shape[:2], next(rows) % 20, dtype=np.uint8)
        )
    least = int(str(caught.value).split()[-1])
    rows = iter(range(len(pool.tiles)))
    labels = lambda p: np.full(p.shape[:2], next(rows) % 20, dtype=np.uint8)  # noqa: E731
    assert len(select_tiles(pool, least, labels=labels)) == least


def test_coverage_is_what_it_says() -> None:
    """A hundred and one tiles in a row, of which some are chosen."""
    line = np.arange(101.0)[:, None]
    tiles = tuple(Tile(Path("line"), row, 0, str(row)) for row in range(101))
    made = TilePool(tiles, 1, 1, 1, 2, 5, 3, np.repeat(line, 6, axis=1), open_windows)
    shares = np.hstack([line / 100, 1 - line / 100])
    coverage = measure_coverage(made, line, shares, [10, 50])
    assert coverage.radius == 50
    assert 25 <= coverage.random_radius <= 75
    [first, *_] = coverage.spans
    assert (first.low, first.high) == (1, 99)
    assert first.covered == 2 / 20
    assert [(c.pool, c.chosen) for c in coverage.classes] == [
        (pytest.approx(0.5), pytest.approx(0.3)),
        (pytest.approx(0.5), pytest.approx(0.7)),
    ]
    record = coverage.record(("water", "land"))
    assert record.classes["land"] == ClassShares(pool=0.5, chosen=0.7)
    assert (record.pool, record.constant, record.repeated) == (101, 2, 3)
    assert record.invalid == 5


@pytest.mark.parametrize("size", [(128, 128), (64, 192)], ids=["square", "wide"])
def test_the_sheet_shows_every_tile_in_the_colour_of_its_class(
    tmp_path: Path, vocabulary: Vocabulary, size: tuple[int, int]
) -> None:
    chosen = select_tiles(find_tiles([EXAMPLE / "images"], InputSpec(*size)), 30, labels=classes_of)
    contact_sheet(chosen, tmp_path / "plain.png")
    contact_sheet(chosen, tmp_path / "framed.png", vocabulary=vocabulary)
    plain, framed = (Image.open(tmp_path / f"{name}.png") for name in ("plain", "framed"))
    assert framed.width == plain.width < 1700
    pixels = np.asarray(framed)
    assert chosen.dominant is not None
    for k in set(chosen.dominant):
        assert (pixels == vocabulary.palette[k]).all(axis=-1).sum() > 1000
    # The last thumbnail, without its frame and number, is the last tile made small.
    wide = (plain.width - 8) // 6 - 8
    tall = round(wide * size[0] / size[1])
    left, upper = 8 + 5 * (wide + 8), plain.height - 8 - tall
    shown = plain.crop((left, upper, left + wide, upper + tall))
    expected = Image.fromarray(chosen.read(chosen.tiles[-1])).resize((wide, tall), 1)
    half = (wide // 2, tall // 2, wide, tall)
    np.testing.assert_array_equal(shown.crop(half), expected.crop(half))


def test_a_sheet_that_cannot_be_finished_is_not_begun(tmp_path: Path) -> None:
    chosen = select_tiles(find_tiles([write_pictures(tmp_path / "in")], InputSpec(32, 48)), 16)
    picture(77).save(tmp_path / "in" / "05.png")
    with pytest.raises(BadInput, match="has changed"):
        contact_sheet(chosen, tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.shared
def test_the_dubai_training_images_are_covered_by_a_third_of_their_tiles() -> None:
    pool = find_tiles([SHARED / "dubai"], InputSpec(512, 512), exclude=SHARED / "dubai")
    assert (pool.images, len(pool.tiles)) == (28, 142)
    coverage = select_tiles(pool, 48).coverage
    assert coverage.radius < 0.6 * coverage.random_radius
    assert min(span.covered for span in coverage.spans) > 0.75
    with pytest.raises(BadInput, match="split 'val"):
        find_tiles([SHARED / "dubai" / "images"], InputSpec(512, 512), exclude=SHARED / "dubai")
