"""Protocols: patches as mmsegmentation's converter cuts them, and what evaluate says of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, load_vocabulary
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.dataset import Sample
from segclip_deploy.evaluation.protocols import Patches, Protocol, choose_protocol
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.targets.fake import FakeBackend
from tests.support.helpers import call

SIDE, OVERLAP = 896, 384
PATCHES = choose_protocol("isaid-patches", "isaid").patches


def sample_of(height: int, width: int) -> Sample:
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(
        "P0001", Frame(pixels, "P0001.png"), rng.integers(0, 5, (height, width), np.uint8)
    )


@given(st.integers(1, 14000))
def test_patches_begin_where_the_published_converter_cuts(length: int) -> None:
    """Its loop, in words: from 0 in steps of 512; one that would end outside is moved back in."""
    assert Patches(SIDE, OVERLAP) == PATCHES
    padded, expected = max(length, SIDE), set()
    for start in range(0, padded, SIDE - OVERLAP):
        end = start + SIDE
        expected.add(start - max(end - padded, 0))
    assert list(PATCHES.starts(length)) == sorted(expected)


@pytest.mark.parametrize(("height", "width"), [(10, 9), (16, 16), (16, 5), (37, 20)])
def test_every_pixel_is_in_a_patch_and_padding_is_not_scored(height: int, width: int) -> None:
    sample, patches = sample_of(height, width), Patches(16, 6)
    parts = list(patches.of(sample))
    for part in parts:
        assert part.frame.pixels.shape == (16, 16, 3)
        ignored = part.ground_truth == IGNORE_INDEX
        assert not part.frame.pixels[ignored].any()
    places = [(y, x) for y in patches.starts(height) for x in patches.starts(width)]
    seen = np.zeros((height, width), int)
    for (y, x), part in zip(places, parts, strict=True):
        inside = part.ground_truth[: height - y, : width - x]
        np.testing.assert_array_equal(inside, sample.ground_truth[y : y + 16, x : x + 16])
        seen[y : y + 16, x : x + 16] += 1
    assert seen.min() == 1
    scored = sum(int((part.ground_truth != IGNORE_INDEX).sum()) for part in parts)
    assert scored == seen.sum()


def test_patches_are_labelled_alone_and_pooled_into_their_image() -> None:
    """The fake engine says the class of each 4 × 4 block's first pixel: a patch moves the blocks."""
    vocabulary, sample = load_vocabulary("dubai"), sample_of(37, 21)
    protocol = Protocol("isaid-patches", "", None, Patches(32, 10))
    with Segmenter(FakeBackend(32, 32), InputSpec(32, 32), vocabulary) as segmenter:
        whole = score(segmenter, [sample])
        patched = score(segmenter, [sample, sample], protocol)
        alone = [score(segmenter, [part]).confusion.counts for part in protocol.parts(sample)]
    assert patched.images == ("P0001", "P0001")
    np.testing.assert_array_equal(patched.by_image[0].counts, sum(alone))
    assert patched.by_image[0].counts.sum() == 2 * 32 * 21
    assert whole.confusion.counts.sum() == 37 * 21


@pytest.mark.parametrize(
    ("name", "vocabulary", "says", "source"),
    [
        ("joined", "loveda", "value 0, no data, is ignored", "Wang et al. 2021"),
        ("joined", "uavid", "frames of 4K, 8 classes", "Lyu et al. 2020"),
        ("joined", "isaid", "published figures are of --protocol isaid-patches", None),
        ("isaid-patches", "isaid", "overlap by 384", "mmsegmentation"),
        ("joined", "dubai", "each image whole, its windows joined", None),
    ],
)
def test_a_protocol_says_whose_it_is(
    name: str, vocabulary: str, says: str, source: str | None
) -> None:
    protocol = choose_protocol(name, vocabulary)  # type: ignore[arg-type]
    assert says in protocol.says
    assert (source or "") in (protocol.source or "")
    assert (protocol.source is None) == (source is None)


def test_evaluate_names_the_protocol(tiny_bundle: Path, tmp_path: Path) -> None:
    sample, data = sample_of(70, 100), tmp_path / "data"
    for folder, array in (("images", sample.frame.pixels), ("masks", sample.ground_truth)):
        (data / folder).mkdir(parents=True)
        Image.fromarray(array).save(data / folder / "a.png")
    said = call("evaluate", tiny_bundle, data, "--protocol", "isaid-patches", "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["protocol"]["name"] == "isaid-patches"
    plain = call("evaluate", tiny_bundle, data)
    assert "joined: each image whole, its windows joined" in plain.stdout
