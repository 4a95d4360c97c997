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
from segclip_deploy.cli.output import print_json, say_it_runs
from segclip_deploy.cli.progress import console

__all__ = ["import_"]

_TO_IMPORT = ("spec_path", "vocabulary", "text", "out")  # what --list does without


class _ImportCommand(click.Command):
    """Needs a file alone where ``--list`` is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with some options required or not."""
        for parameter in self.params:
            if parameter.name in _TO_IMPORT:
                parameter.required = "--list" not in args
        return super().parse_args(ctx, args)


@click.command("import", cls=_ImportCommand)
@click.argument("weights", type=PATH)
@click.option("--spec", "spec_path", type=PATH, required=True, help="Model spec (YAML or JSON).")
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
    "--rename", multiple=True, metavar="OLD=NEW", help="Rename a key prefix; may be repeated."
)
@click.option(
    "--tiles", type=PATH, help="Real images for the checkpoint to carry (first two are kept)."
)
@click.option("--allow-left-over", is_flag=True, help="Drop keys that the model has no place for.")
@click.option(
    "--list", "list_keys", is_flag=True, help="Print every key in WEIGHTS, and do nothing else."
)
@json_option
def import_(
    weights: Path,
    spec_path: Path,
    vocabulary: str,
    text: str,
    out: Path,
    model: str | None,
    key: str | None,
    rename: tuple[str, ...],
    tiles: Path | None,
    allow_left_over: bool,
    list_keys: bool,
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
    if list_keys:
        _list(weights, as_json=as_json)
        return
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
        key=key,
        renames=renames,
        tiles=tiles,
        allow_left_over=allow_left_over,
    )
    if as_json:
        print_json(
            {
                "taken": report.taken,
                "place": report.place,
                "beside": dict(report.beside),
                "counters": report.counters,
                "dropped": list(report.left_over),
            }
        )
    else:
        place = "the file itself" if report.place == "." else report.place
        click.echo(f"{out}: took {place}: {report.taken} tensors")
    said = console()
    if report.counters:
        said.print(f"{report.counters} num_batches_tracked are not in it, nor needed: set to 0")
    for name, count in report.beside.items():
        said.print(f"beside them, not taken: {name} ({count} tensors)", markup=False)
    for name in report.left_over:
        said.print(f"left over, dropped: {name}", markup=False)


def _list(weights: Path, *, as_json: bool) -> None:
    """Print what a file holds: place, key, shape and type, in its order."""
    from segclip_deploy.model.torch_file import TOP, read_torch_file, shape_and_dtype

    entries = read_torch_file(weights)
    rows = [(e.place or TOP, e.key, *shape_and_dtype(e.value)) for e in entries]
    if as_json:
        keys = [
            {"place": place, "key": key, "shape": shape and list(shape), "dtype": dtype}
            for place, key, shape, dtype in rows
        ]
        print_json({"keys": keys})
        return
    for place, key, shape, dtype in rows:
        sides = "no tensor" if shape is None else "×".join(map(str, shape)) or "scalar"
        # A line each, as wide as it is: names are there to be copied.
        click.echo(f"{place}  {key}  {sides}  {dtype}".replace("\n", "\\n"))
