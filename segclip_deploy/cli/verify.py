"""``verify``: engine verification."""

from __future__ import annotations

from pathlib import Path

import click

from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

__all__ = ["verify"]


@click.command()
@click.argument("engine", type=PATH)
@json_option
def verify(engine: Path, as_json: bool) -> None:
    """Verify ENGINE (an engine or a bundle) against the golden tiles; exit 3 if it fails."""
    from segclip_deploy.artifacts.golden import load_golden
    from segclip_deploy.errors import GateFailed, StaleArtifact
    from segclip_deploy.runtime.open_engine import open_engine
    from segclip_deploy.runtime.verify import verify as run_checks

    try:
        opened = open_engine(engine)
    except StaleArtifact as error:  # edited since it was made: here, that is the check failing
        raise GateFailed(error.what, where=error.where, fix=error.fix) from error
    with opened.backend as backend:
        golden = load_golden(opened.golden_path)
        verification = run_checks(backend, golden, opened.vocabulary.names)
    if as_json:
        print_json({**verification.to_json(), "passed": verification.passed})
    else:
        print_table(
            f"{engine}: {verification.engine}",
            ["check", "passed", "what was found"],
            [[c.name, "yes" if c.passed else "NO", c.detail] for c in verification.checks],
        )
    verification.require(where=engine)
