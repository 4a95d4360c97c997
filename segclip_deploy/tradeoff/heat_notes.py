"""What a reader must know of the heat that rows were measured in, in words."""

from __future__ import annotations

from collections.abc import Sequence

from segclip_deploy.tradeoff.row import Row

__all__ = ["heat_notes"]


def heat_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """A line for the rows that are not steady, and one for each cause that took clocks away."""
    unsteady = [row.name for row in rows if row.heat and row.heat.steady is False]
    notes = [f"the temperature was not steady: {', '.join(unsteady)}"] if unsteady else []
    causes = {cause: None for row in rows if row.heat for cause in row.heat.causes or ()}
    for cause in causes:
        slowed = [row.name for row in rows if row.heat and cause in (row.heat.causes or ())]
        notes.append(f"clocks were taken away ({cause}): {', '.join(slowed)}")
    return tuple(notes)
