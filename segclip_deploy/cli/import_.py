"""``import``: PyTorch weights to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import (
    PATH,
    checkpoint_option,
    json_option,
    model_option,
    text_option,
    vocabulary_option,
)
from segclip_deploy.cli.output import print_json
from segclip_deploy.cli.progress import console, stage_bar

__all__ = ["import_"]

_TO_IMPORT = ("spec", "vocabulary", "text", "out")  # what --list does without


class _ImportCommand(click.Command):
    """Needs a file alone where ``--list`` is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with some options required or not."""
        for parameter in self.params:
            if parameter.name in _TO_IMPORT:
                parameter.required = "--list" not in args
        return super().parse_args(ctx, args)


def _renames(
    _context: object, _option: object, rules: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    found = [rule.partition("=") for rule in rules]
    if not all(equals for _, equals, _ in found):
        raise click.BadParameter("it takes OLD=NEW")
    return tuple((old, new) for old, _, new in found)


@click.command("import", cls=_ImportCommand)
@click.argument("weights", type=PATH)
@click.option("--spec", type=PATH, required=True, help="Model spec (YAML or JSON).")
@vocabulary_option
@text_option
@checkpoint_option
@model_option
@click.option(
    "--key",
    metavar="NAME",
    help="Where in WEIGHTS the tensors lie, as in model.state_dict; . for the file itself.",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    callback=_renames,
    help="Rename a key prefix; may be repeated.",
)
@click.option(
    "--tiles", type=PATH, help="Real images for the checkpoint to carry (first two are kept)."
)
@click.option("--allow-left-over", is_flag=True, help="Drop keys that the model has no place for.")
@click.option(
    "--list", "list_keys", is_flag=True, help="Print every key in WEIGHTS, and do nothing else."
)
@json_option
def import_(weights: Path, list_keys: bool, as_json: bool, **options: Any) -> None:
    """Turn a PyTorch WEIGHTS file (.pth) into a checkpoint, every key accounted for."""
    if list_keys:
        _print_keys(api.list_keys(weights), as_json=as_json)
        return
    with stage_bar() as report:
        taken = api.import_(weights, **options, report=report)
    if as_json:
        print_json(taken.to_json())
    else:
        place = "the file itself" if taken.place == "." else taken.place
        click.echo(f"{options['out']}: took {place}: {taken.taken} tensors")
    said = console()
    if taken.counters:
        said.print(f"{taken.counters} num_batches_tracked are not in it, nor needed: set to 0")
    for name, count in taken.beside.items():
        said.print(f"beside them, not taken: {name} ({count} tensors)", markup=False)
    for name in taken.left_over:
        said.print(f"left over, dropped: {name}", markup=False)


def _print_keys(found: api.KeyList, *, as_json: bool) -> None:
    """Print what a file holds: place, key, shape and type, in its order."""
    if as_json:
        print_json(found.to_json())
        return
    for entry in found.keys:
        shape = entry.shape
        sides = "no tensor" if shape is None else "×".join(map(str, shape)) or "scalar"
        # A line each, as wide as it is: names are there to be copied.
        line = f"{entry.place}  {entry.key}  {sides}  {entry.dtype}"
        click.echo(line.replace("\n", "\\n"))
