"""Records: read strictly, told of in one line, and read back as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy._optional import upgrade_command
from segclip_deploy.artifacts.bundle_record import (
    BUNDLE,
    BlockCost,
    BlockMacs,
    BundleRecord,
    Calibration,
    Parents,
    Parity,
    Quality,
    Quantization,
    Smoothing,
    TextChange,
    TrainedText,
)
from segclip_deploy.artifacts.checkpoint_record import (
    CHECKPOINT,
    CheckpointRecord,
    Scores,
    Training,
    TrainSettings,
    TuningParents,
)
from segclip_deploy.artifacts.scheme import PLACERS, Scheme
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.export.text_weights import load_text_weights
from segclip_deploy.model.text import load_text_bank
from tests.faults.test_artefacts import with_metadata
from tests.support.records import small_record

QUALITY = Quality(
    label_agreement=0.99, reference_agreement=1.0, logit_sqnr_db=30.0, flips={"land": 3}
)
QUANTIZED = small_record(
    precision="int8",
    quantization=Quantization(
        scheme=Scheme.TENSORRT,
        placement="own",
        plan={"head": "fp16", "refiner": "int8"},
        int8_macs=0.5,
        fp32_fallback={"head/Pow": "squares overflow"},
        calibration=Calibration(method="entropy", tiles=16),
        quality=QUALITY,
    ),
)


def change(data: Any, path: str, value: Any) -> None:
    """Set what lies at ``a.b.0.c``, or take it away if ``value`` is ``...``."""
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        data = data[step]
    if value is ...:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("input.height", "x", "input.height: expected a whole number, got text"),
        ("input.height", True, "input.height: expected a whole number, got true or false"),
        ("input.height", 10**9, "an input of 1000000000×96 cannot be"),
        ("opset", 19.5, "opset: expected a whole number, got a number"),
        ("outputs", "labels", "outputs: expected a list, got text"),
        ("precision", "int4", "precision: 'int4' is none of its values"),
        ("quantization.scheme", "gpu", "quantization.scheme: 'gpu' is none of its values"),
        ("quantization.quality.flips", [], "quantization.quality.flips: expected an object, got a list"),
        ("vocabulary.classes.1.colour", [1, 2], "vocabulary.classes[1].colour: expected a list of length 3, got 2"),
        ("vocabulary.classes.1.name", "building", "not a valid vocabulary: class names repeat"),
        ("model.heads", 7, "not a valid model spec: width is no multiple of heads"),
        ("parents.checkpoint", ..., "parents.checkpoint: is missing"),
        ("quantization.plan", ..., "quantization.plan: is missing"),
        ("parity", ..., "parity: is missing"),
        ("remark", "kept", "remark: is not known"),
        ("input.depth", 3, "input.depth: is not known"),
        ("schema", "2", "not a bundle record (schema: expected a whole number)"),
        ("schema", ..., "not a bundle record (schema: expected a whole number)"),
    ],
)  # fmt: skip
@pytest.mark.faults
def test_a_record_that_is_not_as_it_should_be_is_told_of_in_one_line(
    path: str, value: Any, told: str, tmp_path: Path
) -> None:
    """File, field, and the command that mends it."""
    file, data = tmp_path / "bundle.json", json.loads(json.dumps(BUNDLE.dump(QUANTIZED)))
    change(data, path, value)
    file.write_text(json.dumps(data))
    with pytest.raises(BadArtifact) as caught:
        BUNDLE.read(file, fix="segclip-deploy export CKPT -o B")
    assert str(caught.value) == f"{file}: {told}; segclip-deploy export CKPT -o B"


def test_a_newer_schema_is_told_of_with_the_command_that_upgrades(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as caught:
        BUNDLE.parse({**BUNDLE.dump(QUANTIZED), "schema": 6}, where="b", fix="f")
    assert str(caught.value) == (
        f"b: its schema 6 is newer than this version reads (5); {upgrade_command()}"
    )


def test_a_schema_without_a_migration_is_told_of() -> None:
    with pytest.raises(BadArtifact, match=r"b: .*whole number.*; f$"):
        BUNDLE.parse({**BUNDLE.dump(QUANTIZED), "schema": 0}, where="b", fix="f")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"heads": "4"}, "heads: expected a whole number, got text"),
        ({"blocks": {"refiner": 1}}, "blocks[...]: expected true or false, got a whole number"),
        ({"more": 1}, "more: is not known"),
    ],
)
@pytest.mark.faults
def test_text_weights_are_read_strictly(
    change: dict[str, Any], told: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    def edit(metadata: dict[str, str]) -> None:
        record = json.loads(metadata["segclip_deploy"])
        metadata["segclip_deploy"] = json.dumps({**record, **change})

    path = with_metadata(tiny_bundle / "text.safetensors", tmp_path / "text.safetensors", edit)
    with pytest.raises(BadArtifact) as caught:
        load_text_weights(path)
    assert str(caught.value) == f"{path}: {told}; segclip-deploy export CKPT -o {tmp_path}"


@pytest.mark.faults
def test_a_text_bank_of_this_version_is_read_strictly(tmp_path: Path) -> None:
    arrays = {"classes": np.ones((5, 8)), "texts": np.ones((5, 2, 8))}
    for more, told in (
        ({"schema": "2"}, "encoder: is missing"),
        ({"schema": "x"}, "not a readable text bank"),
        ({"schema": "0", "encoder": "e"}, "schema: expected a whole number"),
    ):
        np.savez(tmp_path / "b.npz", **arrays, **more)
        with pytest.raises(BadInput, match=told) as caught:
            load_text_bank(str(tmp_path / "b.npz"), load_vocabulary("dubai"))
        assert str(caught.value).startswith(f"{tmp_path / 'b.npz'}: ")


WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
COUNT = st.integers(0, 2**53)
SHARE = st.floats(allow_nan=False, allow_infinity=False)
PRECISION = st.sampled_from(["int8", "fp16", "fp32"])
FLIPS = st.dictionaries(WORDS, COUNT, max_size=3)


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


PARITY = st.builds(Parity, WORDS, WORDS, COUNT, SHARE, SHARE, SHARE, FLIPS)
BUNDLES = st.builds(
    small_record,
    precision=PRECISION,
    files=st.dictionaries(WORDS, WORDS, max_size=3),
    parents=st.builds(Parents, WORDS, st.none() | WORDS, st.none() | WORDS),
    parity=many(PARITY),
    folding=many(st.builds(BlockMacs, WORDS, COUNT, COUNT)),
    blocks=many(st.builds(BlockCost, WORDS, COUNT, COUNT, PRECISION)),
    quantization=st.none()
    | st.builds(
        Quantization,
        st.sampled_from(Scheme),
        st.sampled_from(PLACERS),
        st.dictionaries(WORDS, PRECISION, max_size=3),
        SHARE,
        st.dictionaries(WORDS, WORDS, max_size=3),
        st.none() | st.builds(Calibration, WORDS, COUNT),
        st.builds(Quality, SHARE, SHARE, SHARE, FLIPS),
    ),
    smoothing=st.none() | st.builds(Smoothing, SHARE, COUNT, COUNT),
    texts=st.none()
    | st.builds(
        TextChange,
        WORDS,
        SHARE,
        st.builds(TrainedText, st.just(load_vocabulary("loveda")), WORDS),
        st.dictionaries(WORDS, WORDS, max_size=2),
    ),
)
SCORES = st.dictionaries(WORDS, st.none() | SHARE, max_size=3)
CHECKPOINTS = st.builds(
    CheckpointRecord,
    st.just(small_record().model),
    st.just(load_vocabulary("dubai")),
    WORDS,
    st.none()
    | st.builds(
        Training,
        st.builds(TrainSettings, steps=COUNT, learning_rate=SHARE, bf16=st.booleans()),
        COUNT,
        SHARE,
        st.builds(Scores, st.none() | SHARE, st.none() | SHARE, SCORES, COUNT, SCORES, many(WORDS)),
        WORDS,
        st.none() | st.builds(TuningParents, WORDS, WORDS),
        many(WORDS),
    ),
    st.none() | WORDS,
)


@settings(deadline=None, max_examples=60)
@given(BUNDLES)
def test_a_bundle_record_is_read_as_it_was_written(record: BundleRecord) -> None:
    assert BUNDLE.parse(json.loads(json.dumps(BUNDLE.dump(record))), where="b", fix="f") == record


@settings(deadline=None, max_examples=60)
@given(CHECKPOINTS)
def test_a_checkpoint_record_is_read_as_it_was_written(record: CheckpointRecord) -> None:
    data = json.loads(json.dumps(CHECKPOINT.dump(record)))
    assert CHECKPOINT.parse(data, where="c", fix="f") == record
