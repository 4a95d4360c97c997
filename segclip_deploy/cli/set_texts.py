"""``set-texts``: other class texts in an exported bundle."""

from __future__ import annotations

from pathlib import Path

import click

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
def set_texts(
    artefact: Path,
    text: str | None,
    vocabulary: str | None,
    out: Path | None,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Fold other class texts into BUNDLE, without torch, or refit ENGINE with those of a bundle.

    How accurate they are is for you to measure.
    """
    if bundle and not (text or vocabulary or out):
        _refit(artefact, bundle, as_json)
    elif text and out and not bundle:
        _fold(artefact, text, vocabulary, out, as_json)
    else:
        raise click.UsageError("a BUNDLE takes --text and -o, an ENGINE takes --bundle")


def _refit(path: Path, bundle: Path, as_json: bool) -> None:
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.engine import load_engine
    from segclip_deploy.runtime.build_engine import refit_engine

    engine = refit_engine(load_engine(path), load_bundle(bundle))
    if as_json:
        print_json(engine.record.to_json())
    else:
        click.echo(f"{path}: refitted with the texts of {bundle}, verification passed")


def _fold(bundle: Path, text: str, vocabulary: str | None, out: Path, as_json: bool) -> None:
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.bundle_record import BUNDLE
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.export.set_texts import set_texts
    from segclip_deploy.model.text import load_text_bank

    old = load_bundle(bundle)
    classes = load_vocabulary(vocabulary) if vocabulary else old.vocabulary
    new = set_texts(old, load_text_bank(text, classes), out, vocabulary=classes)
    done = new.record.texts
    assert done is not None  # by what was done just now
    if as_json:
        print_json(BUNDLE.dump(new.record))
    else:
        click.echo(
            f"{out}: new texts folded in, verification passed; "
            f"{done.golden_labels_changed:.2%} of the golden tiles' labels changed"
        )
    click.echo(f"accuracy is {done.accuracy}: segclip-deploy evaluate {out} DATASET", err=True)
    encoder, trained = new.record.text_encoder, done.trained.text_encoder
    if encoder != trained:
        click.echo(f"the texts are from {encoder}, the model was trained on {trained}", err=True)
