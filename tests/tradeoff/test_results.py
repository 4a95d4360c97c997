"""``results.json`` and what a sweep keeps on disk: read back equal, and read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadArtifact
from segclip_deploy.evaluation.accuracy import Accuracy
from segclip_deploy.evaluation.metrics import BoundaryTally, Confusion
from segclip_deploy.runtime.profiling.steadiness import HeatLog
from segclip_deploy.tradeoff.results import RESULTS, ResultsRecord
from segclip_deploy.tradeoff.state import (
    LATENCY,
    Energy,
    Latency,
    load_accuracy,
    load_energy,
    load_latency,
    save_accuracy,
)
from tests.support.records import any_of, some

NAMES = ("a", "b")


@settings(deadline=None, derandomize=True, max_examples=30)
@given(any_of(ResultsRecord))
def test_results_are_read_as_they_were_written(results: ResultsRecord) -> None:
    text = json.dumps(RESULTS.dump(results), allow_nan=False)
    assert RESULTS.parse(json.loads(text), where="r", fix="") == results


HEAT: dict[str, Any] = {
    "joules_above_idle": None,
    "idle": None,
    "power_mode": None,
    "heat": None,
}
"""What rows know since schema 4 of power and temperature."""


def as_schema_3_says(results: ResultsRecord) -> ResultsRecord:
    """The results without what schema 4 added."""
    unknown = {"bundle_sha256": None, "ground_truth_sha256": None, "pixel_ratio": None, **HEAT}
    rows = tuple(replace(row, **unknown) for row in results.rows)
    bounds = tuple(replace(bound, bundle_sha256=None) for bound in results.bounds)
    conditions = replace(results.conditions, frame_folder=None, power_modes=(), ambient=None)
    return replace(
        results, rows=rows, bounds=bounds, conditions=conditions, flight=None, comparisons=()
    )


def schema_3(results: ResultsRecord) -> dict[str, Any]:
    """The file of results as a version wrote it that knew schema 3."""
    data = {**RESULTS.dump(results), "schema": 3}
    data = json.loads(json.dumps(data))
    del data["flight"], data["comparisons"]
    for name in ("frame_folder", "power_modes", "ambient"):
        del data["conditions"][name]
    for part in (*data["rows"], *data["bounds"]):
        for name in ("bundle_sha256", "ground_truth_sha256", "pixel_ratio", *HEAT):
            part.pop(name, None)
    return data


def test_results_of_schema_3_do_not_say_what_their_engines_were_made_of() -> None:
    results = as_schema_3_says(some(ResultsRecord, lambda one: bool(one.rows and one.bounds)))
    assert RESULTS.parse(schema_3(results), where="r", fix="") == results


def test_states_of_before_heat_say_what_they_said(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps({"schema": 2, **LATENCY_DATA}))
    latency = load_latency(tmp_path / "l.json")
    assert (latency.frame_ms, latency.heat) == ((1.0,), None)
    (tmp_path / "e.json").write_text(json.dumps({"schema": 1, "joules": 1.5}))
    assert load_energy(tmp_path / "e.json") == Energy(joules=1.5)


def test_samples_of_unknown_heat_leave_it_unknown(tmp_path: Path) -> None:
    span = HeatLog(tmp_path).span()
    known = Latency(frame_ms=(1.0,), stages={}, windows=(1,), backend="x", heat=span)
    unknown = replace(known, heat=None)
    assert known.heated(Latency.empty(), span).heat == span
    assert known.heated(known, span).heat == span.then(span)
    assert known.heated(unknown, span).heat is None


def test_older_results_and_latencies_call_postprocess_restore(tmp_path: Path) -> None:
    latency = Latency(
        frame_ms=(1.0,), stages={"infer": (0.5,), "postprocess": (0.2,)}, windows=(2,), backend="x"
    )
    old = json.dumps({**LATENCY.dump(latency), "schema": 1}).replace('"postprocess"', '"restore"')
    (tmp_path / "l.json").write_text(old)
    assert load_latency(tmp_path / "l.json") == latency

    results = some(ResultsRecord, lambda results: bool(results.rows))
    stages = {"infer": 0.5, "postprocess": 0.2}
    rows = tuple(replace(row, stages=stages) for row in results.rows)
    conditions = replace(results.conditions, plan_split="plan")  # it could be no other
    results = as_schema_3_says(replace(results, rows=rows, conditions=conditions))
    old = json.dumps({**schema_3(results), "schema": 2}).replace('"postprocess"', '"restore"')
    assert RESULTS.parse(json.loads(old), where="r", fix="") == results


def test_what_a_sweep_keeps_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    by_image = tuple(Confusion(rng.integers(0, 99, (2, 2)), NAMES) for _ in range(3))
    boundary = BoundaryTally(np.array([1, 2]), np.array([3, 4]), NAMES)
    pooled = sum(by_image, Confusion.empty(NAMES))
    kept = Accuracy(pooled, boundary, ("x", "y", "z"), by_image)
    save_accuracy(tmp_path / "a.json", kept)
    read = load_accuracy(tmp_path / "a.json", NAMES)
    assert (read.to_json(), read.images) == (kept.to_json(), kept.images)
    for one, other in zip(read.by_image, by_image, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)
    with pytest.raises(BadArtifact, match="scores of 2 classes, not 3; rm "):
        load_accuracy(tmp_path / "a.json", ("a", "b", "c"))
    latency = Latency(frame_ms=(1.0,), stages={"infer": (0.5,)}, windows=(2,), backend="x")
    LATENCY.write(tmp_path / "l.json", latency)
    assert load_latency(tmp_path / "l.json") == latency


ACCURACY_DATA: dict[str, Any] = {
    "images": ["x"],
    "counts": [[[1, 2], [3, 4]]],
    "intersection": [1, 2],
    "union": [3, 4],
}
LATENCY_DATA: dict[str, Any] = {
    "frame_ms": [1.0],
    "stages": {"infer": [0.5]},
    "windows": [2],
    "backend": "x",
}


@pytest.mark.parametrize(
    ("load", "data", "told"),
    [
        ("accuracy", {"counts": [[[1, -2], [3, 4]]]}, "counts[0][0][1]: expected a whole number"),
        ("accuracy", {"counts": [[[1, 2], [3]]]}, "counts of [1, 2] classes"),
        ("accuracy", {"images": []}, "1 scores of 0 images"),
        ("accuracy", {"names": []}, "names: is not known"),
        ("latency", {"stages": {"infer": [0.5, 0.6]}}, "2 samples of infer, 1 frames"),
        ("latency", {"frame_ms": ["1"]}, "frame_ms[0]: expected a number, got text"),
        ("energy", {"joules": "1"}, "joules: expected a number or null, got text"),
        ("energy", {}, "joules: is missing"),
        ("energy", {"schema": None}, "not a sweep's energy (schema: expected a whole number)"),
    ],
)
def test_what_a_sweep_keeps_is_read_strictly_and_says_how_to_go_on(
    load: str, data: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    whole = {"accuracy": ACCURACY_DATA, "latency": LATENCY_DATA, "energy": {}}[load]
    path.write_text(json.dumps({"schema": 1, **whole, **data}))
    with pytest.raises(BadArtifact) as caught:
        {
            "accuracy": lambda: load_accuracy(path, NAMES),
            "latency": lambda: load_latency(path),
            "energy": lambda: load_energy(path),
        }[load]()
    assert str(caught.value).startswith(f"{path}: {told}")
    assert str(caught.value).endswith(f"; rm {path}, and the same command measures it again")
