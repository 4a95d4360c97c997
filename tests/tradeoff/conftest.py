"""What all tests of sweeps share."""

from __future__ import annotations

import pytest

from segclip_deploy.tradeoff import measure_points


@pytest.fixture(autouse=True)
def no_wait_for_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a sensor a sweep would warm up for a minute, at least."""
    monkeypatch.setattr(measure_points, "WARM_UP_SECONDS", 0.0)
