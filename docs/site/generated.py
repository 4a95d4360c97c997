"""Pages of the reference that the code writes: a page has ``<!-- NAME -->`` where one of PARTS stands."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import segclip_deploy
from segclip_deploy import api
from segclip_deploy.cli import main

SCHEMAS = Path(__file__).parents[1] / "reference" / "schemas"

PAGE = re.compile(r"docs/([\w/-]+\.md)")
"""A page that a help text names."""


def commands() -> str:
    """Every command: how it is called, what it does, and its options, as ``--help`` says them."""
    lines: list[str] = []
    context = click.Context(main)
    for part, names in main.parts.items():
        lines += [f"## {part}", ""]
        for name in names:
            if command := main.get_command(context, name):
                lines += [*_command(name, command), ""]
    return PAGE.sub(r"[\1](../\1)", "\n".join(lines))


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"segclip-deploy {name}")
    yield from (f"### {name}", "", f"    {command.get_usage(context).removeprefix('Usage: ')}", "")
    # \b keeps the line breaks of the paragraph that follows, as in a terminal.
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        kept = paragraph.startswith("\b\n")
        text = _html(paragraph.removeprefix("\b\n"))
        yield from (text.replace("\n", "<br>\n") if kept else text, "")
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    records = [one.get_help_record(context) for one in options]
    yield from _table(("option", "does"), [record for record in records if record])


def schemas() -> str:
    """Every file format: its fields, their types and what they mean."""
    lines: list[str] = []
    told: dict[str, Any] = {}  # an engine's record holds the bundle's, for one
    for path in sorted(SCHEMAS.glob("*.schema.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        root = schema["$ref"].rpartition("/")[2]
        kind = path.name.removesuffix(".schema.json")
        lines += [f"## {kind}", "", f"JSON Schema: [{path.name}]({path.name})", ""]
        parts = {root: schema["$defs"][root], **schema["$defs"]}
        for name, part in parts.items():
            fields = part.get("properties")
            if fields is None or told.get(name) == part:
                continue
            heading = f"### {kind}: {name}" if name in told else f"### {name}"
            told.setdefault(name, part)
            lines += ["" if name == root else heading, "", _html(part["description"])]
            rows = [(field, _type(of), of.get("description", "")) for field, of in fields.items()]
            lines += ["", *_table(("field", "type", "is"), rows), ""]
    return "\n".join(lines)


def _type(of: Mapping[str, Any]) -> str:
    """A field's type, as briefly as a JSON Schema can be said."""
    if "$ref" in of:
        return str(of["$ref"].rpartition("/")[2])
    if "const" in of or "enum" in of:
        return ", ".join(map(json.dumps, of.get("enum", [of.get("const")])))
    if "anyOf" in of:
        return " or ".join(dict.fromkeys(map(_type, of["anyOf"])))
    items = of.get("items")
    if isinstance(items, Mapping) and items:
        return f"list of {_type(items)}"
    if isinstance(of.get("additionalProperties"), Mapping):
        return f"object of {_type(of['additionalProperties'])}"
    if "prefixItems" in of:
        return f"[{', '.join(map(_type, of['prefixItems']))}]"
    return str(of.get("type", "any"))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table; the first column is code."""
    cells = [
        (f"`{first}`".replace("|", "\\|"), *(_html(cell).replace("|", "\\|") for cell in rest))
        for first, *rest in rows
    ]
    lines = [head, ("---",) * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines] if rows else []


def _html(text: str) -> str:
    """Text of a terminal as Markdown: nothing in it is markup but code."""
    parts = re.split(r"(`+[^`]*`+)", text)
    parts[::2] = [
        re.sub(r"([*_<>\[\]])", r"\\\1", part).replace("\\<", "&lt;") for part in parts[::2]
    ]
    return "".join(parts)


def verbs() -> str:
    """The functions of ``api``."""
    return _objects("segclip_deploy.api", verb_names())


def verb_names() -> list[str]:
    """Known by the case of a name: to ask what it stands for would import torch."""
    return [name for name in api.__all__ if name.islower()]


def nouns() -> str:
    """What ``segclip_deploy`` itself offers beside the verbs."""
    names = {*segclip_deploy.__all__} - {"api", *verb_names()}
    # What is called comes before what it returns, and the stand-in for tests last.
    order = sorted(names, key=lambda name: (name == "FakeBackend", not name.islower(), name))
    order.remove("open_segmenter")
    return _objects("segclip_deploy", ["open_segmenter", *order])


def results() -> str:
    """The records that verbs return and files hold."""
    names = [name for name in api.__all__ if not name.islower() and not name.isupper()]
    return _objects("segclip_deploy.api", [n for n in names if n not in segclip_deploy.__all__])


def _objects(home: str, names: list[str]) -> str:
    return "\n\n".join(f"::: {home}.{name}" for name in names)


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "nouns": nouns,
    "results": results,
    "schemas": schemas,
    "verbs": verbs,
}
