"""``import``: PyTorch weights to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from segclip_deploy.cli.options import (
    PATH,
    checkpoint_option,
    json_option,
    model_option,
    text_option,
    vocabulary_option,
)
from segclip_deploy.cli.output import console, print_json, say_it_runs

__all__ = ["import_"]


@click.command("import")
@click.argument("weights", type=PATH)
@click.option("--spec", "spec_path", type=PATH, required=True, help="Model spec (YAML or JSON).")
@vocabulary_option
@text_option
@checkpoint_option
@model_option
@click.option(
    "--rename", multiple=True, metavar="OLD=NEW", help="Rename a key prefix; may be repeated."
)
@click.option(
    "--tiles", type=PATH, help="Real images for the checkpoint to carry (first two are kept)."
)
@click.option("--allow-left-over", is_flag=True, help="Drop keys that the model has no place for.")
@json_option
def import_(
    weights: Path,
    spec_path: Path,
    vocabulary: str,
    text: str,
    out: Path,
    model: str | None,
    rename: tuple[str, ...],
    tiles: Path | None,
    allow_left_over: bool,
    as_json: bool,
) -> None:
    """Turn a PyTorch WEIGHTS file (.pth) into a checkpoint, every key accounted for."""
    renames = [
        (old, new) for old, equals, new in (rule.partition("=") for rule in rename) if equals
    ]
    if len(renames) < len(rename):
        raise click.UsageError("--rename takes OLD=NEW")
    from segclip_deploy._optional import require

    require("torch", why="reading PyTorch weights")
    from segclip_deploy.artifacts.model_spec import load_spec
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.model.convert import import_weights
    from segclip_deploy.model.network import load_factory
    from segclip_deploy.model.text import load_text_bank

    say_it_runs(model)
    words = load_vocabulary(vocabulary)
    report = import_weights(
        weights,
        load_spec(spec_path),
        words,
        load_text_bank(text, words),
        out,
        factory=load_factory(model),
        renames=renames,
        tiles=tiles,
        allow_left_over=allow_left_over,
    )
    if as_json:
        print_json({"taken": report.taken, "dropped": list(report.left_over)})
    else:
        click.echo(f"{out}: {report.taken} tensors taken")
    for key in report.left_over:
        console().print(f"left over, dropped: {key}", markup=False)
