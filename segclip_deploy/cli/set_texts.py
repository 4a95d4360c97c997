"""``set-texts``: other class texts in an exported bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json

__all__ = ["set_texts"]


@click.command()
@click.argument("artefact", type=PATH, metavar="BUNDLE|ENGINE")
@click.option("--text", help="Text bank (.npz, .safetensors) or open_clip:MODEL@WEIGHTS.")
@click.option(
    "--vocabulary", help="Shipped name or YAML of the new classes; else their names stay."
)
@click.option("-o", "--out", type=PATH, help="Bundle directory to write.")
@click.option(
    "--bundle",
    type=PATH,
    help="For an ENGINE built with --refittable: a bundle with the new texts.",
)
@json_option
def set_texts(artefact: Path, as_json: bool, **options: Any) -> None:
    """Fold other class texts into BUNDLE, without torch, or refit ENGINE with those of a bundle.

    How accurate they are is for you to measure.
    """
    found = api.set_texts(artefact, **options)
    if as_json:
        print_json(found.to_json())
    if isinstance(found, api.Engine):
        if not as_json:
            click.echo(
                f"{artefact}: refitted with the texts of {options['bundle']}, verification passed"
            )
        return
    done = found.record.texts
    assert done is not None  # by what was done just now
    if not as_json:
        click.echo(
            f"{found.path}: new texts folded in, verification passed; "
            f"{done.golden_labels_changed:.2%} of the golden tiles' labels changed"
        )
    click.echo(
        f"accuracy is {done.accuracy}: segclip-deploy evaluate {found.path} DATASET", err=True
    )
    if fit := found.record.temperature:
        click.echo(
            f"its temperature {fit.value:.3f} stays, and was fitted with other texts: evaluate says what its "
            "confidence is worth, where the bundle outputs logits",
            err=True,
        )
    encoder, trained = found.record.text_encoder, done.trained.text_encoder
    if encoder != trained:
        click.echo(f"the texts are from {encoder}, the model was trained on {trained}", err=True)
