"""Pages, help texts and errors are in plain language: short sentences, and the words of the glossary.

Vale checks the same, but its package fetches a binary when it is first used, so it is nothing that
``make test`` could install. ``<!-- plain: off -->`` and ``<!-- plain: on -->`` on lines of their own
take a part of a page out: quoted licences, say.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import click

from segclip_deploy import errors
from segclip_deploy.cli import main
from tests.conftest import ROOT
from tests.support.pages import pages, table_rows, texts

LONGEST = 30
"""Words of a sentence."""

EXCEPTIONS = 5
"""Parts of pages that are taken out, in all."""

SENTENCE = re.compile(r"(?<=[.!?])[)»\"*_]*\s+|\s+·\s+")
OFF = re.compile(r"<!-- plain: off -->.*?<!-- plain: on -->", re.DOTALL)
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"


def long_sentences(text: str) -> list[str]:
    """The sentences of a text that have too many words."""
    return [s for s in SENTENCE.split(text) if len(re.findall(r"\w[^\s]*", s)) > LONGEST]


def words_to_avoid() -> dict[str, str]:
    """Word → what to say, from the glossary's column «do not say»."""
    rows = table_rows(GLOSSARY.read_text(encoding="utf-8"), "do not say")
    return {word.strip(): row[0] for row in rows for word in row[-1].split(",") if word.strip(" –")}


def avoided(text: str, words: dict[str, str]) -> list[str]:
    """The words of a text that the glossary replaces, with what to say."""
    return [
        f"{word}: say {better}"
        for word, better in words.items()
        if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
    ]


def helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Help texts of a command, of its options, and of all commands below it."""
    yield name, command.help or ""
    for option in command.params:
        yield f"{name} --{option.name}", getattr(option, "help", None) or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for verb in command.list_commands(context):
            if below := command.get_command(context, verb):
                yield from helps(below, f"{name} {verb}")


def words_of(node: ast.expr) -> str:
    """What a string or f-string says; ``code`` stands for what is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words_of(part) or "code" for part in parts)
    return ""


def messages(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of what the errors that a module raises say."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in errors.__all__:
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                yield node.lineno, words_of(argument)


def read_by_people() -> Iterator[tuple[str, str]]:
    """Where → a text: of pages but this project's history, of ``--help``, and of errors."""
    for page in pages():
        if page.name != "CHANGELOG.md":
            source = page.read_text(encoding="utf-8")
            source = OFF.sub(lambda part: "\n" * part.group().count("\n"), source)
            for line, text in texts(source):
                yield f"{page.relative_to(ROOT)}:{line}", text
    yield from helps(main, "segclip-deploy")
    for module in sorted((ROOT / "segclip_deploy").rglob("*.py")):
        for line, text in messages(module.read_text(encoding="utf-8")):
            yield f"{module.relative_to(ROOT)}:{line}", text


def test_sentences_are_short() -> None:
    found = [f"{where}: {s}" for where, text in read_by_people() for s in long_sentences(text)]
    assert not found, "\n".join([f"{len(found)} sentences of over {LONGEST} words", *found])


def test_words_are_those_of_the_glossary() -> None:
    words = words_to_avoid()
    assert len(words) >= 5
    found = [
        f"{where}: {hit}"
        for where, text in read_by_people()
        if not where.startswith(str(GLOSSARY.relative_to(ROOT)))
        for hit in avoided(text, words)
    ]
    assert not found, "\n".join(found)


def test_exceptions_are_few() -> None:
    marked = [page.name for page in pages() for _ in OFF.findall(page.read_text(encoding="utf-8"))]
    assert len(marked) <= EXCEPTIONS, marked


def test_a_long_sentence_and_a_word_off_the_glossary_are_found() -> None:
    long = " ".join(["word"] * 31) + "."
    assert long_sentences(f"Short one. {long} *Another.*") == [long]
    assert long_sentences(" ".join(["word"] * 30) + ".") == []
    assert avoided("Which Islands stay?", {"islands": "FP32 fallback layers"}) == [
        "islands: say FP32 fallback layers"
    ]


def test_what_errors_say_is_read() -> None:
    source = "raise BadInput(f'{n} of {m} are bad', where=path, fix='mend ' 'them')"
    assert [text for _, text in messages(source) if text] == ["code of code are bad", "mend them"]


def test_text_is_told_from_code() -> None:
    page = "# Head\n\nRun `a b`. [Link](x.md) ends.\n\n    code here\n\n| a | b |\n|---|---|\n| c | d |\n"
    assert [text for _, text in texts(page)] == ["Head", "Run code. Link ends.", "a", "b", "c", "d"]
    assert list(table_rows(page, "b")) == [["c", "d"]]
