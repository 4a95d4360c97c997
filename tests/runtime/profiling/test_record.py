"""``profile.json``: written and read back equal, whatever it says, and read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from segclip_deploy._optional import upgrade_command
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadArtifact, command
from segclip_deploy.runtime.profiling.compare import load_profile
from segclip_deploy.runtime.profiling.record import PROFILE, ProfileRecord
from tests.support.records import any_of, some


@settings(deadline=None, derandomize=True, max_examples=30)
@given(any_of(ProfileRecord))
def test_a_profile_is_read_as_it_was_written(profile: ProfileRecord) -> None:
    text = json.dumps(PROFILE.dump(profile), allow_nan=False)
    assert PROFILE.parse(json.loads(text), where="p", fix="") == profile


def test_a_profile_of_schema_2_calls_postprocess_restore() -> None:
    profile = some(ProfileRecord, lambda profile: bool(profile.stages))
    stats, ms = next(iter(profile.stages.values())), (1.0, 2.0)
    now = {"infer": stats, "postprocess": stats, "write": stats}
    measured = {"infer": ms, "postprocess": ms, "write": ms}
    samples = replace(profile.samples, stages=measured)
    profile = replace(profile, stages=now, samples=samples, pixel_ratio=None)
    data = json.loads(json.dumps(PROFILE.dump(profile)).replace('"postprocess"', '"restore"'))
    del data["pixel_ratio"]
    migrated = PROFILE.parse({**data, "schema": 2}, where="p", fix="")
    assert migrated == profile
    assert list(migrated.stages) == list(now)


def test_a_profile_of_schema_3_does_not_tell_what_was_computed() -> None:
    profile = replace(some(ProfileRecord), pixel_ratio=None)
    data = json.loads(json.dumps(PROFILE.dump(profile)))
    assert data.pop("pixel_ratio") is None
    assert PROFILE.parse({**data, "schema": 3}, where="p", fix="") == profile


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("conditions", "threads"), "two", "conditions.threads: expected a whole number, got text"),
        (("conditions", "device", "python"), ..., "conditions.device.python: is missing"),
        (("memory", "swap"), 1, "memory.swap: is not known"),
        (("total", "p99"), None, "total.p99: expected a number, got null"),
        (("schema",), 1, "its schema 1 is older than this version reads (4)"),
        (("schema",), 5, "its schema 5 is newer than this version reads (4)"),
    ],
)
def test_a_profile_that_is_not_as_it_should_be_is_refused(
    place: tuple[str, ...], value: Any, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    data = json.loads(json.dumps(PROFILE.dump(some(ProfileRecord))))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner.pop(place[-1]) if value is ... else inner.update({place[-1]: value})
    path.write_text(json.dumps(data))
    with pytest.raises(BadArtifact) as caught:
        load_profile(path)
    newer = place == ("schema",) and value == 5
    anew = command("segclip-deploy", "profile", "ENGINE", "-o", tmp_path)
    remedy = upgrade_command() if newer else anew
    assert str(caught.value).startswith(f"{path}: {told}; {remedy}")


def test_what_is_no_json_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[")
    with pytest.raises(
        BadArtifact, match=r"not readable as JSON .*; segclip-deploy profile ENGINE"
    ):
        load_profile(tmp_path / "p.json")
