"""What the pages tell a reader to run is run as it stands there, and prints what they show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

from segclip_deploy.cli import main
from tests.conftest import EXAMPLE, ROOT
from tests.support.pages import Block, commands, missing_lines, pages, runnable_blocks

QUICK = ("README.md", "docs/how-to/datasets.md", "docs/how-to/install.md")
"""Pages of `make test`; the others take minutes."""

RUNNABLE = {
    path.relative_to(ROOT).as_posix(): blocks
    for path in pages()
    if (blocks := runnable_blocks(path.read_text(encoding="utf-8")))
}


def run_block(block: Block, folder: Path) -> str:
    """What a block prints, in a folder.

    Raises:
        subprocess.CalledProcessError: The block failed; what it printed is in the message of pytest.
    """
    shell = {
        "bash": ["bash", "-euo", "pipefail", "-c"],
        "python": [sys.executable, "-c"],
    }[block.language]
    done = subprocess.run(
        [*shell, block.source],
        cwd=folder,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "100",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"line {block.line}:\n{done.stdout}")
    done.check_returncode()
    return done.stdout


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in QUICK else pytest.mark.long, id=page)
        for page in RUNNABLE
    ],
)
def test_a_page_runs_and_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "dubai")
    for block in RUNNABLE[page]:
        assert missing_lines(block.prints, run_block(block, tmp_path)) == []
    size = Image.open(EXAMPLE / "images" / "tile6_part8.jpg").size
    for picture in (tmp_path / "out").rglob("tile6_part8*.png"):
        assert Image.open(picture).size == size


def test_the_readme_is_short_and_it_and_the_tutorials_are_run() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    tutorials = [p.relative_to(ROOT).as_posix() for p in (ROOT / "docs" / "tutorials").glob("*.md")]
    assert len(tutorials) >= 3
    assert {"README.md", *tutorials} <= set(RUNNABLE)


def unknown(words: list[str]) -> str | None:
    """What is wrong with the verb or the options of a command, if anything."""
    verb = words[0] if words else "--help"
    if verb.startswith("-"):
        return None
    command = main.get_command(click.Context(main), verb)
    if command is None:
        return f"no command {verb}"
    try:
        command.make_parser(click.Context(command, info_name=verb)).parse_args(list(words[1:]))
    except click.UsageError as error:
        return f"{verb}: {error.format_message()}"
    return None


def test_commands_of_all_pages_exist_and_take_their_options() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), words)
        for path in pages()
        for words in commands(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 100
    assert [(page, wrong) for page, words in found if (wrong := unknown(words))] == []


def test_a_command_that_is_not_there_is_found() -> None:
    page = "    segclip-deploy fly a -o b  # up\n\nThen `segclip-deploy run e \\\n --no-such 3`.\n"
    assert [unknown(words) for words in commands(page)] == [
        "no command fly",
        "run: No such option '--no-such'.",
    ]


def test_blocks_are_what_is_marked() -> None:
    page = "<!-- run -->\n```bash\na\n```\n\n```bash\nb\n```\n\n<!-- prints -->\n```text\nc\n```\n"
    assert runnable_blocks(page) == [Block(1, "bash", "a\n", ("c",))]
    with pytest.raises(ValueError, match="line 1: <!-- run --> has no fence"):
        runnable_blocks("<!-- run -->\n\nText.\n")


def test_what_is_printed_is_compared() -> None:
    output = "noise\nmIoU 0.7519, pixel  accuracy 0.8730\nbuilt in 10.6 s\n"
    assert missing_lines(("mIoU 0.7521, pixel accuracy 0.8730", "built in … s"), output) == []
    for wrong in ("mIoU 0.7919, pixel accuracy 0.8730", "mIoU 0.7519", "built in 9 s"):
        assert missing_lines((wrong,), output) == [wrong]
    assert missing_lines(("built in … s", "noise"), output) == ["noise"]
