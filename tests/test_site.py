"""The site of the documentation: what its pages say beside text that people wrote."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.helpers import commands
from tests.test_imports import ORDER, RUNG

SITE = ROOT / "docs" / "site"


def test_the_picture_of_the_packages_has_all_of_them_in_their_order() -> None:
    page = (ROOT / "docs" / "explanation" / "overview.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"## The packages\n.*?```mermaid\n(.*?)```", page, re.DOTALL)
    arrows = re.findall(r"^  (\w+)(?:\[.*\])? --> (\w+)", picture, re.MULTILINE)
    shown = {name for arrow in arrows for name in arrow}
    assert shown == {"errors"} | {name for names in ORDER[1:] for name in names}
    assert all(RUNG[above] > RUNG[below] for above, below in arrows)


def test_the_reference_has_every_command_and_every_option() -> None:
    page = runpy.run_path(str(SITE / "generated.py"))["commands"]()
    for name, command in commands().items():
        (part,) = re.findall(rf"^### {name}\n(.*?)(?=^###? |\Z)", page, re.DOTALL | re.MULTILINE)
        flags = {flag for option in command.params for flag in option.opts if flag[:2] == "--"}
        assert flags <= set(re.findall(r"--[\w-]+", part))


def test_the_reference_has_every_field_of_every_file() -> None:
    parts = runpy.run_path(str(SITE / "generated.py"))
    text = parts["schemas"]()
    assert text.count("JSON Schema: ") == len(list(parts["SCHEMAS"].glob("*.schema.json")))
    for field in ("golden_sha256", "fp32_fallback", "label_agreement"):
        assert f"| `{field}` |" in text


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ('<script src="https://unpkg.com/x.js"></script>', "script"),
        ('<link rel="stylesheet" href="//fonts.googleapis.com/css">', "link"),
        ('<img srcset="a.png, https://host/b.png 2x">', "img"),
        ('<p style="background: url(https://host/a.png)">', "style"),
        ('<pre class="mermaid"><code>graph</code></pre>', "no mermaid.min.js"),
        ('<a href="https://host"></a><img src="a.png"><script src="../a.js"></script>', None),
    ],
)
def test_a_page_that_loads_from_another_host_is_told(
    tmp_path: Path, page: str, told: str | None
) -> None:
    (tmp_path / "page.html").write_text(page)
    found = runpy.run_path(str(SITE / "check.py"))["problems"](tmp_path)
    assert (told is None) == (found == [])
    assert all(told in line for line in found if told)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_site_builds_strictly_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs MkDocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert runpy.run_path(str(SITE / "check.py"))["problems"](tmp_path) == []
    assert 'id="run"' in (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
