"""Every link of a page leads to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# Where the code sends somebody who reads an error, a help text or a comment.
NAMED = re.compile(r"\bdocs/[\w./-]+\.(?:md|json|py)\b")


def tracked() -> list[Path]:
    """Files of the repository, as git knows them; without git, all that a clone could have."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode != 0:
        pytest.skip("not a clone: git does not say which files belong here")
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


@cache
def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names: set[str] = set()
    for heading in re.findall(
        r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    ):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        seen = found.get(name, 0)
        found[name] = seen + 1
        names.add(f"{name}-{seen}" if seen else name)
    return names


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        lost = not file.exists() or (heading and heading not in anchors(file))
        wrong += [f"{page.relative_to(ROOT)}: {target}"] if lost else []
    return wrong


def test_every_link_of_a_page_leads_somewhere() -> None:
    pages = [path for path in tracked() if path.suffix == ".md"]
    assert len(pages) > 40
    assert [line for page in pages for line in broken(page)] == []


def test_pages_that_the_code_names_are_there() -> None:
    suffixes = {".py", ".html", ".yaml", ".yml", ".xml", ".toml", ".md", ""}
    lost = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked()
        if path.suffix in suffixes and path != Path(__file__)
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not (ROOT / name).is_file()
    ]
    assert lost == []
