"""Pages as their readers use them: blocks to run with what they print, commands, sentences.

A block that a reader runs has ``<!-- run -->`` on a line of its own before its fence. What it prints
stands in the fence behind ``<!-- prints -->``. Both comments are invisible on GitHub and on the site.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.conftest import ROOT

MARKDOWN = MarkdownIt("commonmark").enable("table")
ENDS_OF_A_COMMAND = ("|", ">", ">>", "&&", "&", ";", "2>", "<", "--ros-args")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """One block that a reader runs.

    Attributes:
        line: Of the page, from 1.
        language: ``bash`` or ``python``.
        source: What is run.
        prints: Lines that must come out, in this order; other lines may stand between them.
    """

    line: int
    language: str
    source: str
    prints: tuple[str, ...] = ()


def pages() -> list[Path]:
    """Every page that a reader may open."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(found)


def runnable_blocks(text: str) -> list[Block]:
    """The blocks of a page that are marked, in order.

    Raises:
        ValueError: A mark without a fence behind it, or an output without a block before it.
    """
    blocks: list[Block] = []
    tokens = MARKDOWN.parse(text)
    for mark, fence in zip(tokens, [*tokens[1:], None], strict=True):
        kind = mark.content.strip()
        if mark.type != "html_block" or kind not in ("<!-- run -->", "<!-- prints -->"):
            continue
        line = mark.map[0] + 1 if mark.map else 0
        if fence is None or fence.type != "fence":
            raise ValueError(f"line {line}: {kind} has no fence behind it")
        if kind == "<!-- run -->":
            blocks.append(Block(line, fence.info, fence.content))
        elif not blocks or blocks[-1].prints:
            raise ValueError(f"line {line}: {kind} has no block to run before it")
        else:
            blocks[-1] = replace(blocks[-1], prints=tuple(fence.content.splitlines()))
    return blocks


def missing_lines(expected: tuple[str, ...], output: str) -> list[str]:
    """Lines of ``expected`` that ``output`` has not, in this order.

    Spaces do not count. ``…`` stands for anything, and numbers may differ by 2 %: the last pixels of
    a label map depend on the processor.
    """
    printed = iter(output.splitlines())
    missing = [line for line in expected if not any(_alike(line, seen) for seen in printed)]
    return missing[:1]  # behind the first, nothing is left to compare


def _alike(expected: str, seen: str) -> bool:
    parts = re.split(r"(…|" + NUMBER.pattern + r"|\s+)", expected.strip())
    pattern, numbers = "", []
    for part in parts:
        if NUMBER.fullmatch(part):
            pattern += f"({NUMBER.pattern})"
            numbers.append(_value(part))
        else:
            pattern += {"…": ".*"}.get(part, r"\s+" if part.isspace() else re.escape(part))
    match = re.fullmatch(pattern, seen.strip())
    return match is not None and all(
        abs(_value(found) - number) <= 0.02 * abs(number)
        for number, found in zip(numbers, match.groups(), strict=True)
    )


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def texts(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each paragraph, heading, list item and table cell; code in it is the word ``code``."""
    shown = {"code_inline": "code", "softbreak": " ", "hardbreak": " "}
    for token in MARKDOWN.parse(text):
        if token.type == "inline" and token.children:
            parts = (
                shown.get(child.type, child.content if child.type == "text" else "")
                for child in token.children
            )
            yield (token.map[0] + 1 if token.map else 0), "".join(parts)


def table_rows(text: str, heading: str) -> Iterator[list[str]]:
    """The cells of each row of those tables that have a column of this heading."""
    cells: list[str] = []
    headings: list[str] = []
    for token in MARKDOWN.parse(text):
        if token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            cells.append(token.content)
        elif token.type == "thead_close":
            headings = cells
        elif token.type == "tr_close" and heading in headings:
            yield cells
        elif token.type == "table_close":
            headings = []


def commands(text: str) -> Iterator[list[str]]:
    """The words behind ``segclip-deploy`` of each command in a page's blocks and in its prose."""
    for token in _all(MARKDOWN.parse(text)):
        if token.type in ("fence", "code_block", "code_inline"):
            for line in token.content.replace("\\\n", " ").splitlines():
                words = _words(line)
                if words and Path(words[0]).name == "segclip-deploy":
                    yield words[1:]


def _all(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from token.children or ()


def _words(line: str) -> list[str]:
    """The first command of a line, split as a shell splits it; none where a quote is left open."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word in ENDS_OF_A_COMMAND:
                break
            words.append(word)
    except ValueError:
        return []
    return words[1:] if words[:1] == ["sudo"] else words
