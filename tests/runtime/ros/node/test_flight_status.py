"""What the diagnostics say of what happened."""

from __future__ import annotations

import numpy as np
import pytest

from segclip_deploy.runtime.ros.node import flight_status
from segclip_deploy.runtime.ros.node.flight_status import FlightStatus


def test_percentiles_are_those_of_the_last_frames() -> None:
    status = FlightStatus()
    latencies = np.random.default_rng(0).gamma(2, 10, 500)
    for latency in latencies:
        status.add_labelled(latency, None)
    values = status.condition().values
    for percent in (50, 95, 99):
        expected = np.percentile(latencies[-300:], percent)
        assert float(values[f"latency p{percent} ms"]) == pytest.approx(expected, abs=0.005)
    assert "age p50 ms" not in values  # no image had a stamp
    status.add_labelled(1.0, 40.0)
    assert status.condition().values["age p50 ms"] == "40.00"


@pytest.mark.parametrize(
    ("what", "level", "message"),
    [
        ("late", "WARN", "2 images missed the deadline"),
        ("skipped", "WARN", "2 images missed the deadline"),
        ("lost", "WARN", "2 images were lost on their way here"),
        ("refused", "WARN", "2 images were too unhealthy to be labelled"),
        ("dropped", "OK", "waiting for images"),
        ("labelled", "OK", "labelling"),
    ],
)
def test_a_problem_is_told_once_and_counted_for_ever(what: str, level: str, message: str) -> None:
    status = FlightStatus()
    status.add(what, 2)
    told = status.condition()
    assert (told.level, told.message, told.values[what]) == (level, message, "2")
    after = status.condition()
    assert (after.level, after.message, after.values[what]) == ("OK", "waiting for images", "2")


def test_an_error_and_silence_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    status = FlightStatus()
    status.add_bad("no such encoding")
    assert (status.condition().level, status.condition().values["last error"]) == (
        "ERROR",
        "no such encoding",
    )
    monkeypatch.setattr(flight_status, "_SILENT_S", -1.0)
    assert (status.condition().level, status.condition().message) == ("ERROR", "no image for 0 s")
