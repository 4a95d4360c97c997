"""``inspect``: what an artefact is and comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import PATH, json_option
from segclip_deploy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from segclip_deploy.artifacts.engine import EngineRecord, Search

__all__ = ["inspect", "measured", "print_folding"]


@click.command()
@click.argument("path", type=PATH)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH is: a checkpoint, a bundle or an engine, with its classes and parents."""
    kind, record, engine = _read(path)
    if as_json:
        print_json({"kind": kind, **record})
        return
    bundle = record.get("bundle", record)  # an engine carries its bundle's record
    click.echo(f"{path}: {kind}")
    for name, value in (*_facts(bundle), *(_engine_facts(engine) if engine else ())):
        click.echo(f"  {name:12} {value}")
    vocabulary = bundle["vocabulary"]
    print_table(
        f"{vocabulary['title']}: {len(vocabulary['classes'])} classes",
        ["class", "mask value", "colour", "prompts", "real texts"],
        [
            [
                entry["name"],
                str(entry["mask_value"]),
                "#{:02x}{:02x}{:02x}".format(*entry["colour"]),
                "; ".join(
                    t.format(d) for t in vocabulary["templates"] for d in entry["descriptions"]
                ),
                str(len(entry["texts"])),
            ]
            for entry in vocabulary["classes"]
        ],
    )
    if bundle.get("blocks"):
        _print_blocks(bundle["blocks"])
    if bundle.get("folding"):
        print_folding(bundle["folding"])
    if engine and engine.built.network:
        _print_layers(engine)


def print_folding(blocks: list[Mapping[str, Any]]) -> None:
    """The table of what folding saves, block by block."""
    print_table(
        "MACs of attention to text, per image",
        ["block", "constants", "folded", "exported"],
        [[b["block"], f"{b['plain']:,}", f"{b['folded']:,}", b["exported"]] for b in blocks],
    )


def _print_blocks(blocks: list[Mapping[str, Any]]) -> None:
    parameters, macs = (sum(b[key] for b in blocks) for key in ("parameters", "macs"))
    rows = [*blocks, {"block": "all", "parameters": parameters, "macs": macs, "precision": ""}]
    print_table(
        "parameters, and MACs per image",
        ["block", "parameters", "MACs", "of all", "precision"],
        [
            [
                row["block"],
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                f"{row['macs'] / max(macs, 1):.1%}",
                row["precision"],
            ]
            for row in rows
        ],
    )


def _read(path: Path) -> tuple[str, dict[str, Any], EngineRecord | None]:
    if path.suffix == ".safetensors":
        from segclip_deploy._optional import require

        require("torch", why="reading a checkpoint")
        from segclip_deploy.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        about = {
            "model": checkpoint.spec.to_json(),
            "vocabulary": checkpoint.vocabulary.to_json(),
            "text_encoder": checkpoint.bank.encoder,
            "parameters": sum(tensor.numel() for tensor in checkpoint.weights.values()),
            "examples": len(checkpoint.examples),
            "training": dict(checkpoint.training),
        }
        return "checkpoint", about, None
    if path.is_dir():
        from segclip_deploy.artifacts.bundle import load_bundle

        return "bundle", dict(load_bundle(path).record), None
    from segclip_deploy.artifacts.engine import load_engine

    record = load_engine(path).record
    return f"engine for {record.target}", record.to_json(), record


def _facts(bundle: Mapping[str, Any]) -> list[tuple[str, str]]:
    from segclip_deploy.artifacts.bundle import InputSpec

    model = bundle["model"]
    facts = [("model", f"{model['encoder']}, width {model['width']}, {model['heads']} heads")]
    facts.append(("text", bundle["text_encoder"]))
    if "input" in bundle:
        facts.append(("input", f"uint8 {InputSpec(**bundle['input']).sides}"))
        facts.append(("outputs", ", ".join(bundle["outputs"])))
        facts.append(("precision", f"{bundle['precision']}, opset {bundle['opset']}"))
    if "revocab" in bundle:
        facts.append(("accuracy", bundle["revocab"]["accuracy"]))
    if "parameters" in bundle:
        facts.append(("parameters", f"{bundle['parameters']:,}"))
    plan = bundle.get("training", {}).get("plan")
    if plan:
        facts.append(("plan mIoU", f"{plan['miou']:.4f}, step {bundle['training']['step']}"))
    facts += [(f"from {name}", digest[:16]) for name, digest in bundle.get("parents", {}).items()]
    return facts


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
    plan = record.bundle.get("plan") or dict.fromkeys(asked, record.bundle["precision"])
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
