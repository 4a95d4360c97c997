"""Report: ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import AnyPath, AnyPaths, paths_of

if TYPE_CHECKING:
    from segclip_deploy.tradeoff.joined_report import JoinedReport

__all__ = ["report"]


def report(folders: AnyPaths, *, out: AnyPath) -> JoinedReport:
    """Join the results of several boards and workstations in one HTML file that needs no network.

    What was measured in unlike conditions is shown as unlike. Nothing is measured anew.

        result = api.report(["orin", "thor", "workstation"], out="joined.html")
        [machine.front for machine in result.joined.machines]

    Args:
        folders: that ``benchmark`` wrote; one or several.
        out: the HTML file.

    Returns:
        the page, and what it says: Pareto fronts by machine, equal artefacts on several machines, INT8
        over FP16, missions, lower bounds beside measured values, and what of the conditions differs.

    Raises:
        UsageError: no folder, or ``out`` is no HTML file.
        BadInput: a folder without results, or the same results twice.
        BadArtifact: results that are damaged, or that a newer version wrote.
        MissingDependency: jinja2 or matplotlib is not installed.
    """
    from segclip_deploy.tradeoff.joined_report import join_reports

    return join_reports(paths_of(folders), Path(out))
