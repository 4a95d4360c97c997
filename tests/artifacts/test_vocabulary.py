"""Vocabularies: what ships, what is read, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import (
    IGNORE_INDEX,
    Vocabulary,
    load_vocabulary,
    shipped_vocabularies,
)
from segclip_deploy.errors import BadInput

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

SHIPPED = {"dubai": 5, "isaid": 16, "loveda": 7, "uavid": 8}


def mapping(mask_values: list[int], ignore_value: int | None) -> dict[str, Any]:
    """A valid vocabulary with these mask values."""
    return {
        "name": "test",
        "title": "Test",
        "source": "nowhere",
        "ground_sample_distance_m": 0.5,
        "ignore_value": ignore_value,
        "templates": ["a photo of {}."],
        "classes": [
            {
                "name": f"class_{index}",
                "mask_value": value,
                "colour": [index, 0, 255 - index],
                "descriptions": ["a thing"],
                "texts": ["It is there.", "It is a thing."],
            }
            for index, value in enumerate(mask_values)
        ],
    }


@st.composite
def vocabulary_and_indices(draw: st.DrawFn) -> tuple[Vocabulary, NDArray[np.uint8]]:
    values = draw(st.lists(st.integers(0, 255), min_size=3, max_size=9, unique=True))
    ignores = draw(st.booleans())
    classes = values[1:]
    vocabulary = Vocabulary.from_mapping(mapping(classes, values[0] if ignores else None))
    indices = [*range(len(classes)), *([IGNORE_INDEX] if ignores else [])]
    shape = array_shapes(min_dims=2, max_dims=2)
    return vocabulary, draw(arrays(np.uint8, shape, elements=st.sampled_from(indices)))


def test_exactly_the_four_vocabularies_ship() -> None:
    assert set(shipped_vocabularies()) == set(SHIPPED)


@pytest.mark.parametrize(("name", "classes"), SHIPPED.items())
def test_a_shipped_vocabulary_has_its_classes_and_equally_many_texts_for_each(
    name: str, classes: int
) -> None:
    vocabulary = load_vocabulary(name)
    assert vocabulary.name == name
    assert vocabulary.palette.shape == (classes, 3)
    (texts,) = {len(entry.texts) for entry in vocabulary.classes}
    assert texts > 0
    for entry in vocabulary.classes:
        prompts = vocabulary.prompts(entry)
        assert len(set(prompts)) == len(vocabulary.templates) * len(entry.descriptions)
        assert not any("{" in prompt for prompt in prompts)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_vocabulary_survives_json(name: str) -> None:
    vocabulary = load_vocabulary(name)
    assert Vocabulary.from_mapping(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@PROPERTY
@given(vocabulary_and_indices())
def test_decode_mask_undoes_the_writing_of_mask_values(
    case: tuple[Vocabulary, NDArray[np.uint8]],
) -> None:
    vocabulary, indices = case
    value_of = {index: entry.mask_value for index, entry in enumerate(vocabulary.classes)}
    if vocabulary.ignore_value is not None:
        value_of[IGNORE_INDEX] = vocabulary.ignore_value
    values = np.array([[value_of[index] for index in row] for row in indices.tolist()], np.uint8)
    decoded = vocabulary.decode_mask(values)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, indices)


def test_unknown_mask_values_are_refused_by_value_and_file() -> None:
    vocabulary = Vocabulary.from_mapping(mapping([1, 2], 0))
    values = np.array([[0, 1, 2], [9, 200, 9]], dtype=np.uint8)
    with pytest.raises(BadInput, match=r"masks/a\.png: mask values \[9, 200\]"):
        vocabulary.decode_mask(values, where="masks/a.png")


def test_a_vocabulary_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mapping([3, 5], None)), encoding="utf-8")
    assert load_vocabulary(path) == Vocabulary.from_mapping(mapping([3, 5], None))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda d: d.pop("templates"), "'templates' is missing", id="missing key"),
        pytest.param(lambda d: d["classes"][1].pop("texts"), "'texts'", id="missing class key"),
        pytest.param(
            lambda d: d["classes"][1].update(colour=d["classes"][0]["colour"]),
            "colours repeat",
            id="repeated colour",
        ),
        pytest.param(
            lambda d: d["classes"][1].update(colour=[1, 2]), "not a vocabulary", id="short colour"
        ),
        pytest.param(
            lambda d: d["classes"][1].update(name="class_0"), "names repeat", id="repeated name"
        ),
        pytest.param(lambda d: d.update(ignore_value=1), "values repeat", id="ignored class"),
        pytest.param(
            lambda d: d["classes"][0].update(mask_value=256), "outside 0-255", id="large value"
        ),
        pytest.param(lambda d: d.update(templates=["a photo"]), "{}", id="no place for the class"),
        pytest.param(lambda d: d.update(templates=[]), "no template", id="no template"),
        pytest.param(lambda d: d["classes"].pop(), "fewer than two", id="one class"),
        pytest.param(lambda d: d["classes"][0]["texts"].pop(), "unequal", id="unequal texts"),
        pytest.param(
            lambda d: d.update(ignore_vlaue=7),
            "ignore_vlaue",
            id="unknown key",
        ),
        pytest.param(
            lambda d: d.update(templates=["a {} by {day}"]),
            "template",
            id="template with a second field",
        ),
        pytest.param(
            lambda d: d["classes"][0].update(descriptions="roof"),
            "descriptions",
            id="string for a list",
        ),
    ],
)
def test_a_bad_vocabulary_is_refused_with_its_path(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], says: str
) -> None:
    data = mapping([1, 2], 0)
    damage(data)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_vocabulary(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"classes: [unclosed", id="not YAML"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(b"- a\n- b\n", id="a list"),
        pytest.param(
            b"source: 2020-13-45\n",
            id="impossible date",
        ),
    ],
)
def test_a_file_that_holds_no_vocabulary_is_refused_with_its_path(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_vocabulary(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
