"""Two profiles side by side, if they may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import check_schema
from segclip_deploy.artifacts.files import read_json
from segclip_deploy.errors import BadArtifact, GateFailed
from segclip_deploy.runtime.profiling.conditions import unlike
from segclip_deploy.runtime.profiling.profile import PROFILE_SCHEMA

__all__ = ["compare", "load_profile"]


def load_profile(path: Path) -> dict[str, Any]:
    """Read what ``profile --out`` wrote.

    Raises:
        BadArtifact: not a profile, or of a newer schema.
    """
    record = read_json(path)
    if not {"conditions", "total", "stages"} <= record.keys():
        raise BadArtifact(
            "not a profile", where=path, fix="segclip-deploy profile ENGINE -o FOLDER"
        )
    check_schema(record, PROFILE_SCHEMA, where=path)
    return record


def compare(one: Mapping[str, Any], other: Mapping[str, Any], *, force: bool) -> dict[str, Any]:
    """How much faster the other is: ratios of medians and p99, one's over the other's.

    Returns:
        ``unlike``: what differs in their conditions; ``ratios`` by stage, and of ``ready`` and
        ``total``.

    Raises:
        GateFailed: they differ in a condition that matters, and ``force`` is not set.
    """
    differing = unlike(one["conditions"], other["conditions"])
    if differing and not force:
        raise GateFailed(
            f"not comparable: {'; '.join(differing)}",
            fix="measure both alike, or compare all the same with --force",
        )
    both = {
        name: (one["stages"][name], other["stages"][name])
        for name in one["stages"]
        if name in other["stages"]
    }
    both |= {name: (one[name], other[name]) for name in ("ready", "total")}
    return {
        "unlike": differing,
        "ratios": {
            name: {rank: a[rank] / b[rank] for rank in ("p50", "p99") if b[rank]}
            for name, (a, b) in both.items()
        },
    }
