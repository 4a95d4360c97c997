"""The tables of docs/how-to/import.md: the tensors that the reference network wants, in its default form.

Run it after a change of the network: ``.venv/bin/python docs/reference/keys/make.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.model.segclip import SegCLIP

PAGE = Path(__file__).parents[2] / "how-to" / "import.md"
MARKS = ("<!-- wanted keys -->", "<!-- end of wanted keys -->")
SPEC = ModelSpec(classes=7, text_width=512)


def wanted() -> dict[str, Tensor]:
    """The default network's tensors, on no device: only their shapes are of interest."""
    with torch.device("meta"):
        return SegCLIP(SPEC).state_dict()


def tables(state: Mapping[str, Tensor]) -> str:
    """One table for each part of the network; a row for names that differ in numbers and the last word."""
    rows: dict[tuple[str, str], dict[str, list[tuple[int, ...]]]] = {}
    for name, tensor in state.items():
        module, _, last = name.rpartition(".")
        pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "N", module)
        shapes = rows.setdefault((_part(name), pattern), {})
        shapes.setdefault(last, []).append(tuple(tensor.shape))
    lines: list[str] = []
    part = ""
    for (own, pattern), shapes in rows.items():
        if own != part:
            part = own
            lines += ["", f"`{part}`", "", "| names | how many | shapes |", "|---|---|---|"]
        count = sum(map(len, shapes.values()))
        lines.append(f"| `{pattern}.`: {_words(shapes)} | {count} | {'; '.join(_sides(shapes))} |")
    return "\n".join(lines).strip()


def page(text: str, state: Mapping[str, Tensor]) -> str:
    """The page with its tables made anew."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{tables(state)}\n\n{MARKS[1]}{after}"


def _part(name: str) -> str:
    words = name.split(".")
    return ".".join(words[: 2 if words[0] in ("encoder", "decoder") else 1])


def _words(shapes: Mapping[str, object]) -> str:
    return ", ".join(f"`{last}`" for last in shapes)


def _sides(shapes: Mapping[str, list[tuple[int, ...]]]) -> Iterator[str]:
    """The shapes, each once; of many the least and the most."""
    found = sorted(set().union(*shapes.values()))
    shown = ["×".join(map(str, shape)) or "scalar" for shape in found]
    yield from shown if len(shown) <= 4 else (f"{shown[0]} … {shown[-1]}",)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), wanted()), encoding="utf-8")
