"""Health of frames: what is found of night, fog and blur, what is not, and on what the answer rests."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.calibration.likeness import fit_appearance
from segclip_deploy.calibration.tiles import TilePool, find_tiles
from segclip_deploy.runtime.inference import health as module
from segclip_deploy.runtime.inference.frame import Frame, read_frame
from segclip_deploy.runtime.inference.health import FrameHealth, check_health
from segclip_deploy.runtime.inference.tile_descriptors import describe, features_of
from tests.conftest import EXAMPLE, SHARED
from tests.support.weather import fog, motion_blur, night, underexposed

WINDOW = (256, 256)
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def pool() -> TilePool:
    return find_tiles([EXAMPLE / "images"], InputSpec(*WINDOW))


@pytest.fixture(scope="module")
def appearance(pool: TilePool) -> Appearance:
    found = fit_appearance(pool)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def frames() -> list[Pixels]:
    """Real ones, cut to two windows each way."""
    paths = sorted((EXAMPLE / "images").iterdir())
    return [np.ascontiguousarray(read_frame(path).pixels[:520, :520]) for path in paths]


def look(pixels: Pixels, appearance: Appearance | None = None) -> FrameHealth:
    return check_health(Frame(pixels, "test"), WINDOW, appearance)


def test_real_frames_are_healthy(frames: list[Pixels], appearance: Appearance) -> None:
    for pixels in frames:
        found = look(pixels, appearance)
        assert found.problems == ()
        assert found.unlike is not None
        assert 0 < found.unlike < 1
        assert look(pixels).unlike is None  # nobody knows


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda p: underexposed(p, 6), "dark"),
        (lambda p: night(p // 2, 5), "dark"),
        (lambda p: underexposed(p, -8), "bright"),
        (lambda p: motion_blur(p, 15, 30), "blurred"),
        (lambda p: motion_blur(p, 15, 0), "blurred"),
        (lambda p: motion_blur(p, 15, 90), "blurred"),
        (lambda p: motion_blur(p, 15, 45), "blurred"),
        (lambda p: motion_blur(p, 15, 135), "blurred"),
    ],
    ids=["6 stops less", "night", "8 stops more", "30°", "along rows", "down", "45°", "135°"],
)
def test_what_hurts_every_frame_is_found_without_calibration(
    frames: list[Pixels], change: Callable[[Pixels], Pixels], problem: str
) -> None:
    assert all(look(change(pixels)).problems == (problem,) for pixels in frames)


def test_fog_is_found_where_the_tiles_of_calibration_are_known(
    frames: list[Pixels], appearance: Appearance
) -> None:
    """Of four images only; with 28 fog is found from 200 m visibility on (the last test)."""
    foggy = [fog(pixels, 100, 80) for pixels in frames]
    assert all(look(pixels, appearance).problems == ("unlike",) for pixels in foggy)
    assert all(look(pixels).problems == () for pixels in foggy)


def test_descriptors_are_those_of_calibration(frames: list[Pixels]) -> None:
    """Nine blocks of 32 fill a window of 96: only differences across their seams are not counted."""
    for pixels in frames:
        tile = np.ascontiguousarray(pixels[100:196, 300:396])
        blocks, counts = module._blocks(Frame(tile, "t"), (96, 96))
        assert counts == [9]
        strip = Image.fromarray(blocks.reshape(-1, 32, 3)).convert("YCbCr")
        (found,) = module._descriptors(strip, blocks.shape[:3], counts)
        np.testing.assert_allclose(found[:4], describe(tile).values[:4], rtol=1e-6)
        np.testing.assert_allclose(found[4:], describe(tile).values[4:], rtol=0.1)


def test_blur_is_that_of_the_paper() -> None:
    """Crete et al., SPIE 6492, 2007, with a filter that runs, on what both see of a block."""
    luma = np.asarray(Image.open(next((EXAMPLE / "images").iterdir())).convert("L"))[:32, :32]
    found = []
    for values in (luma.astype(float), luma.T.astype(float)):  # rows, then columns
        low = np.apply_along_axis(np.convolve, 1, values, np.full(9, 1 / 9), "valid")
        sharp, left = np.abs(np.diff(values[:, 4:-4])), np.abs(np.diff(low))
        found.append(1 - np.maximum(0, sharp - left).sum() / sharp.sum())
    steps, module_steps = ((0, 1), (1, 0)), module._STEPS
    try:
        module._STEPS = steps  # type: ignore[assignment]
        assert module._blur(luma[None].astype(np.int16)) == pytest.approx(max(found))
    finally:
        module._STEPS = module_steps
    assert module._blur(np.full((2, 32, 32), 7, np.int16)) is None


@pytest.mark.parametrize("degrees", [45, 135])
def test_blur_along_a_diagonal_is_measured_along_it(frames: list[Pixels], degrees: float) -> None:
    for pixels in frames:
        smeared = np.asarray(Image.fromarray(motion_blur(pixels, 15, degrees)).convert("L"))
        blocks = smeared[:512, :512].reshape(16, 32, 16, 32).swapaxes(1, 2).reshape(-1, 32, 32)
        sharp = module._blur(blocks.astype(np.int16))
        assert sharp is not None
        assert sharp > 0.5  # without the diagonals 0.37 to 0.50


def test_ground_that_is_not_there_is_not_looked_at(frames: list[Pixels]) -> None:
    pixels, valid = frames[0].copy(), np.ones(frames[0].shape[:2], bool)
    pixels[:, 260:], valid[:, 260:] = 0, False
    assert check_health(Frame(pixels, "t", valid), WINDOW).problems == ()
    half, whole = check_health(Frame(pixels, "t", valid), WINDOW), look(frames[0][:, :256].copy())
    assert half.blur == pytest.approx(whole.blur, abs=0.02)
    valid[:] = False
    nothing = check_health(Frame(pixels, "t", valid), WINDOW)
    assert (nothing.problems, nothing.blur, nothing.median) == ((), None, None)


@pytest.mark.parametrize("size", [(1, 1), (11, 400), (12, 12), (30, 70), (257, 256), (2000, 40)])
def test_a_frame_of_any_size_is_looked_at(size: tuple[int, int], appearance: Appearance) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = look(pixels, appearance)
    assert (found.blur is None) == (min(size) < 12)
    assert (found.unlike is None) == (min(size) < 12)
    assert found.to_json().keys() == {"problems", "bright_part", "median", "blur", "unlike"}


def test_the_limit_holds_images_against_the_others(pool: TilePool, appearance: Appearance) -> None:
    """Of a cloud that has an image's tiles in it, they lie nearer: the limit must not be of that kind."""
    features = features_of(pool.descriptors)
    own = [module.distance_from(appearance, row) for row in features]
    assert 0.1 < np.percentile(own, 99) < 0.9
    assert fit_appearance(find_tiles([pool.tiles[0].source], InputSpec(128, 128))) is None


@pytest.mark.shared
def test_real_frames_of_the_same_town_are_healthy_and_in_fog_they_are_not() -> None:
    appearance = fit_appearance(find_tiles([SHARED / "dubai"], InputSpec(512, 512)))
    split = json.loads((SHARED / "dubai" / "split.json").read_text())
    for name in (one for part in ("train", "plan", "val", "val_cross_tile") for one in split[part]):
        frame = read_frame(next((SHARED / "dubai" / "images").glob(f"{name}.*")))
        assert check_health(frame, (512, 512), appearance).problems == (), name
        if name in split["val"]:
            foggy = Frame(fog(frame.pixels, 100, 200), name)
            assert check_health(foggy, (512, 512), appearance).problems == ("unlike",)
