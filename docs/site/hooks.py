"""What MkDocs does beside building pages: it fills in what code says, and mends links that leave ``docs``."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from generated import PARTS  # beside this file: MkDocs puts its folder on the path
from mermaid import fetch_mermaid
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = "repository"
"""Where files of the repository lie in the site that pages link to and that are not below ``docs``."""

LINK = re.compile(r"""(\]\(|(?:src|href)=")([^)\s"#]+)""")
CODE = re.compile(r"`[^`\n]*`")
MERMAID = "assets/mermaid.min.js"
log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Take along what pages link to outside of ``docs``, and Mermaid."""
    waiting = [page.abs_src_path for page in files.documentation_pages()]
    while waiting:
        path = Path(str(waiting.pop()))
        for target in targets(path, path.read_text(encoding="utf-8")):
            name = f"{OUTSIDE}/{target.relative_to(ROOT).as_posix()}"
            if ROOT / "docs" in target.parents or files.get_file_from_path(name):
                continue
            if target.is_dir():
                log.warning("%s links to a folder: %s", path, target)
                continue
            files.append(File.generated(config, name, abs_src_path=str(target)))
            waiting += [str(target)] if target.suffix == ".md" else []
    try:
        mermaid = fetch_mermaid()
    except (OSError, ValueError) as error:
        raise PluginError(f"Mermaid draws the diagrams and is fetched once: {error}") from error
    files.append(File.generated(config, MERMAID, abs_src_path=str(mermaid)))


def targets(page: Path, text: str) -> list[Path]:
    """Files and folders of the repository that a page links to."""
    found = []
    for _, link in LINK.findall(text):
        target = Path(os.path.normpath(page.parent / link))
        if ":" not in link and ROOT in target.parents and target.exists():
            found.append(target)
    return found


def on_page_markdown(text: str, page: Page, **_: Any) -> str:
    """Fill in what is generated, and point links at where their targets lie in the site."""
    for name, made in PARTS.items():
        if f"<!-- {name} -->" in text:
            text = text.replace(f"<!-- {name} -->", made())
    # GitHub wants a bar in a table's code with a backslash, Python-Markdown shows that backslash.
    text = CODE.sub(lambda code: code[0].replace("\\|", "|"), text)
    home = Path(str(page.file.abs_src_path)).parent
    here = posixpath.dirname(page.file.src_uri)

    def mended(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(home / match[2]))
        if ":" in match[2] or ROOT not in target.parents or not target.exists():
            return match[0]  # strict builds tell of what is nowhere
        if target.is_dir() and (target / "README.md").is_file():
            target /= "README.md"
        inside = ROOT / "docs" in target.parents
        base = ROOT / "docs" if inside else ROOT
        name = target.relative_to(base).as_posix()
        return match[1] + posixpath.relpath(name if inside else f"{OUTSIDE}/{name}", here or ".")

    return LINK.sub(mended, text)


def on_post_page(html: str, page: Page, **_: Any) -> str:
    """Load Mermaid from the site itself where there is a diagram; the theme would fetch it elsewhere."""
    if 'class="mermaid"' not in html:
        return html
    here = posixpath.dirname(page.file.dest_uri) or "."
    script = f'<script src="{posixpath.relpath(MERMAID, here)}"></script>'
    return html.replace("</head>", f"{script}</head>", 1)
