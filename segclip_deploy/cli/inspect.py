"""``inspect``: what an artefact is and comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from segclip_deploy import api
from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

__all__ = [
    "inspect",
    "label_maker",
    "measured",
    "precision_lines",
    "print_folding",
    "temperature_fit",
]


@click.command()
@click.argument("path", type=PATH)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH is: a checkpoint, a bundle or an engine, with its classes and parents."""
    found = api.inspect(path)
    kind = _kind(found)
    if as_json:
        print_json({"kind": kind, **found.to_json()})
        return
    click.echo(f"{path}: {kind}")
    for name, value in _facts(found):
        click.echo(f"  {name:12} {value}")
    _print_vocabulary(found.vocabulary)
    record = _bundle_record(found)
    if record and record.blocks:
        _print_blocks(record.blocks)
    if record and record.folding:
        print_folding(record.folding)
    if isinstance(found, api.Engine):
        if found.record.built.network:
            _print_layers(found.record)
        _print_not_as_planned(found.record.precision_shares or ())


def _kind(found: api.CheckpointFacts | api.Bundle | api.Engine) -> str:
    if isinstance(found, api.Engine):
        return f"engine for {found.record.target}"
    return "bundle" if isinstance(found, api.Bundle) else "checkpoint"


def _bundle_record(found: api.CheckpointFacts | api.Bundle | api.Engine) -> api.BundleRecord | None:
    if isinstance(found, api.Engine):
        return found.record.bundle
    return found.record if isinstance(found, api.Bundle) else None


def _facts(found: api.CheckpointFacts | api.Bundle | api.Engine) -> list[tuple[str, str]]:
    if isinstance(found, api.Engine):
        return [*_bundle_facts(found.record.bundle), *_engine_facts(found.record)]
    return (
        _bundle_facts(found.record) if isinstance(found, api.Bundle) else _checkpoint_facts(found)
    )


def print_folding(blocks: Sequence[api.BlockMacs]) -> None:
    """The table of what folding saves, block by block."""
    print_table(
        "MACs of attention to text, per image",
        ["block", "constants", "folded", "exported"],
        [[b.block, f"{b.plain:,}", f"{b.folded:,}", b.exported] for b in blocks],
    )


def _checkpoint_facts(found: api.CheckpointFacts) -> list[tuple[str, str]]:
    facts = _model_facts(found.spec, found.text_encoder)
    facts.append(("parameters", f"{found.parameters:,}"))
    training = found.training
    if training and training.plan.miou is not None:
        reached = f"{training.plan.miou:.4f}, step {training.step}"
        if found.compaction and found.compaction.labels == "parent":
            facts.append(("agreement", f"with its parent {reached}"))
        else:
            facts.append(("plan mIoU", reached))
    if found.imported:
        facts.append(("imported", found.imported))
    if done := found.compaction:
        facts.append(
            (
                "compacted",
                f"from {done.parent[:16]}, {done.parent_ms:.1f} → {done.ms:.1f} ms in {done.engine}",
            )
        )
    return facts


def _print_vocabulary(vocabulary: api.Vocabulary) -> None:
    print_table(
        f"{vocabulary.title}: {len(vocabulary.classes)} classes",
        ["class", "mask value", "colour", "prompts", "real texts"],
        [
            [
                entry.name,
                str(entry.mask_value),
                entry.hex_colour,
                "; ".join(vocabulary.prompts(entry)),
                str(len(entry.texts)),
            ]
            for entry in vocabulary.classes
        ],
    )


def _print_blocks(blocks: Sequence[api.BlockCost]) -> None:
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


def _model_facts(model: api.ModelSpec, text_encoder: str) -> list[tuple[str, str]]:
    network = f"{model.encoder}, width {model.width}, {model.heads} heads"
    if model.channels:
        network += f", {len(model.channels)} layers pruned"
    return [("model", network), ("text", text_encoder)]


def _bundle_facts(record: api.BundleRecord) -> list[tuple[str, str]]:
    facts = [
        *_model_facts(record.model, record.text_encoder),
        ("input", f"uint8 {record.input.sides}"),
        ("outputs", ", ".join(record.outputs)),
        ("graph", "for " + " and ".join(lowering.value for lowering in record.lowerings)),
        ("precision", f"{record.precision}, opset {record.opset}"),
    ]
    done = record.quantization
    if done and done.calibration:
        facts.append(
            (
                "INT8",
                f"placed by {done.placement}, ranges of {done.calibration.tiles} tiles by {done.calibration.method}",
            )
        )
    if record.input.overlap is not None:
        facts.insert(3, ("overlap", f"{record.input.overlap} pixels, chosen by export --frame"))
    if record.texts:
        facts.append(("accuracy", record.texts.accuracy))
    if record.temperature:
        facts.append(("temperature", temperature_fit(record)))
    parents = record.parents.to_json().items()
    return facts + [(f"from {name}", digest[:16]) for name, digest in parents if digest]


def temperature_fit(record: api.BundleRecord) -> str:
    """The temperature of a bundle that has one, what it was fitted on, and what it did there."""
    fit = record.temperature
    assert fit is not None  # by the caller
    texts = ", with other texts" if record.texts else ""
    return (
        f"{fit.value:.3f}, fitted on split {fit.split} of {fit.dataset}{texts}: {len(fit.images)} images, "
        f"{fit.pixels:,} pixels, expected calibration error {fit.before.ece:.4f} before, {fit.after.ece:.4f} after"
    )


def _engine_facts(record: api.EngineRecord) -> Iterator[tuple[str, str]]:
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
        times = (
            f"{t.median_ms:.2f} ms{'' if t.passed else ' FAILED'} (labels by {t.labels})"
            for t in built.build.tries
        )
        yield "tries", ", ".join(times)
    yield "labels", label_maker(record)
    for line in precision_lines(record):
        yield "precision", line
    if built.verified:
        yield "verified", f"passed in {built.verified.engine}"
    else:
        yield "verified", f"NO: {built.not_verified}"
    yield "from bundle", f"{record.bundle_sha256[:16]} ({record.bundle_path})"


def label_maker(record: api.EngineRecord) -> str:
    """What makes an engine's labels, and whether that was chosen among both ways."""
    built = record.built
    maker = "a kernel on the GPU" if built.labels == "kernel" else "the graph"
    if "auto" not in record.arguments:
        return f"made by {maker}"
    tried = {one.labels for one in built.build.tries}
    return f"made by {maker}, " + (
        "the faster of both" if len(tried) > 1 else "no kernel was tried"
    )


def _print_layers(record: api.EngineRecord) -> None:
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


def precision_lines(record: api.EngineRecord) -> Iterator[str]:
    """What of its plan an engine is known to keep, a line for each low precision; none for FP32."""
    done = record.bundle.quantization
    if done and record.precision_shares is None:
        untold = "its library tells nothing of its layers"
        if done.operators is None:
            untold = "its bundle does not say what each operator was planned in"
        yield f"not known what runs as planned: {record.built.not_verified or untold}"
    for share in record.precision_shares or ():
        yield str(share)


def _print_not_as_planned(shares: Sequence[api.PrecisionShare]) -> None:
    rows = [
        [name, share.precision, f"{macs / share.planned:.1%}", what]
        for share in shares
        for what, operators in (("fell back", share.fell_back), ("unknown", share.unknown))
        for name, macs in operators.items()
    ]
    if rows:
        print_table(
            "operators that do not run as planned, or may not",
            ["operator", "planned", "of its MACs", "in the engine"],
            rows,
        )


def _counts(types: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in types.items())


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


def measured(search: api.Search) -> str:
    """What a search for settings found, and under which conditions."""
    times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in search.median_ms.items())
    return f"{times} (medians of {search.rounds}; {search.cores} cores, load {search.load})"
