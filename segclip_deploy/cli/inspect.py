"""``inspect``: what an artefact is and comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from segclip_deploy.artifacts.bundle_record import BlockCost, BlockMacs, BundleRecord
    from segclip_deploy.artifacts.engine import EngineRecord, Search
    from segclip_deploy.artifacts.model_spec import ModelSpec
    from segclip_deploy.artifacts.vocabulary import Vocabulary

__all__ = ["inspect", "measured", "print_folding"]


@click.command()
@click.argument("path", type=PATH)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH is: a checkpoint, a bundle or an engine, with its classes and parents."""
    if path.suffix == ".safetensors":
        _inspect_checkpoint(path, as_json)
    elif path.is_dir():
        from segclip_deploy.artifacts.bundle import load_bundle
        from segclip_deploy.artifacts.bundle_record import BUNDLE

        record = load_bundle(path).record
        if as_json:
            print_json({"kind": "bundle", **BUNDLE.dump(record)})
            return
        _print_facts(path, "bundle", _bundle_facts(record))
        _print_bundle(record)
    else:
        from segclip_deploy.artifacts.engine import ENGINE, load_engine

        engine = load_engine(path).record
        kind = f"engine for {engine.target}"
        if as_json:
            print_json({"kind": kind, **ENGINE.dump(engine)})
            return
        _print_facts(path, kind, [*_bundle_facts(engine.bundle), *_engine_facts(engine)])
        _print_bundle(engine.bundle)
        if engine.built.network:
            _print_layers(engine)


def print_folding(blocks: Sequence[BlockMacs]) -> None:
    """The table of what folding saves, block by block."""
    print_table(
        "MACs of attention to text, per image",
        ["block", "constants", "folded", "exported"],
        [[b.block, f"{b.plain:,}", f"{b.folded:,}", b.exported] for b in blocks],
    )


def _inspect_checkpoint(path: Path, as_json: bool) -> None:
    from segclip_deploy._optional import require

    require("torch", why="reading a checkpoint")
    from segclip_deploy.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    training, parameters = checkpoint.training, sum(w.numel() for w in checkpoint.weights.values())
    if as_json:
        record = {
            "model": checkpoint.spec.to_json(),
            "vocabulary": checkpoint.vocabulary.to_json(),
            "text_encoder": checkpoint.bank.encoder,
            "parameters": parameters,
            "examples": len(checkpoint.examples),
            "training": training.to_json() if training else None,
            "imported": checkpoint.imported,
        }
        print_json({"kind": "checkpoint", **record})
        return
    facts = _model_facts(checkpoint.spec, checkpoint.bank.encoder)
    facts.append(("parameters", f"{parameters:,}"))
    if training and training.plan.miou is not None:
        facts.append(("plan mIoU", f"{training.plan.miou:.4f}, step {training.step}"))
    if checkpoint.imported:
        facts.append(("imported", checkpoint.imported))
    _print_facts(path, "checkpoint", facts)
    _print_vocabulary(checkpoint.vocabulary)


def _print_facts(path: Path, kind: str, facts: Sequence[tuple[str, str]]) -> None:
    click.echo(f"{path}: {kind}")
    for name, value in facts:
        click.echo(f"  {name:12} {value}")


def _print_bundle(record: BundleRecord) -> None:
    _print_vocabulary(record.vocabulary)
    if record.blocks:
        _print_blocks(record.blocks)
    if record.folding:
        print_folding(record.folding)


def _print_vocabulary(vocabulary: Vocabulary) -> None:
    print_table(
        f"{vocabulary.title}: {len(vocabulary.classes)} classes",
        ["class", "mask value", "colour", "prompts", "real texts"],
        [
            [
                entry.name,
                str(entry.mask_value),
                "#{:02x}{:02x}{:02x}".format(*entry.colour),
                "; ".join(vocabulary.prompts(entry)),
                str(len(entry.texts)),
            ]
            for entry in vocabulary.classes
        ],
    )


def _print_blocks(blocks: Sequence[BlockCost]) -> None:
    parameters, macs = sum(b.parameters for b in blocks), sum(b.macs for b in blocks)
    rows = [(b.block, b.parameters, b.macs, b.precision) for b in blocks]
    print_table(
        "parameters, and MACs per image",
        ["block", "parameters", "MACs", "of all", "precision"],
        [
            [block, f"{own:,}", f"{cost:,}", f"{cost / max(macs, 1):.1%}", precision]
            for block, own, cost, precision in [*rows, ("all", parameters, macs, "")]
        ],
    )


def _model_facts(model: ModelSpec, text_encoder: str) -> list[tuple[str, str]]:
    network = f"{model.encoder}, width {model.width}, {model.heads} heads"
    return [("model", network), ("text", text_encoder)]


def _bundle_facts(record: BundleRecord) -> list[tuple[str, str]]:
    facts = [
        *_model_facts(record.model, record.text_encoder),
        ("input", f"uint8 {record.input.sides}"),
        ("outputs", ", ".join(record.outputs)),
        ("precision", f"{record.precision}, opset {record.opset}"),
    ]
    if record.texts:
        facts.append(("accuracy", record.texts.accuracy))
    parents = record.parents.to_json().items()
    return facts + [(f"from {name}", digest[:16]) for name, digest in parents if digest]


def _engine_facts(record: EngineRecord) -> Iterator[tuple[str, str]]:
    built = record.built
    device = built.device.to_json().items()
    named = {name: v for name, v in device if v and name not in ("flags", "kind")}
    yield (
        "built for",
        ", ".join(f"{name.replace('_', ' ')} {_told(v)}" for name, v in named.items()),
    )
    yield "built", f"{record.bytes / 1e6:.1f} MB in {built.build.seconds:.1f} s"
    if record.arguments:
        yield "options", " ".join(record.arguments)
    if built.settings:
        yield "settings", ", ".join(f"{name} {value}" for name, value in built.settings.items())
    if built.build.search:
        yield "measured", measured(built.build.search)
    if len(built.build.tries) > 1:
        times = (f"{t.median_ms:.2f} ms{'' if t.passed else ' FAILED'}" for t in built.build.tries)
        yield "tries", ", ".join(times)
    if built.verified:
        yield "verified", f"passed in {built.verified.engine}"
    else:
        yield "verified", f"NO: {built.not_verified}"
    yield "from bundle", f"{record.bundle_sha256[:16]} ({record.bundle_path})"


def _print_layers(record: EngineRecord) -> None:
    asked, chosen = record.built.network or {}, record.built.blocks
    plan = record.bundle.plan or dict.fromkeys(asked, record.bundle.precision)
    print_table(
        "layers by block and type",
        ["block", "plan", "the bundle asks for", "the engine does"],
        [
            [
                block,
                precision,
                _counts(asked.get(block, {})),
                _counts(chosen.get(block, {})) if chosen else "not inspected",
            ]
            for block, precision in plan.items()
        ],
    )


def _counts(types: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in types.items())


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


def measured(search: Search) -> str:
    """What a search for settings found, and under which conditions."""
    times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in search.median_ms.items())
    return f"{times} (medians of {search.rounds}; {search.cores} cores, load {search.load})"
