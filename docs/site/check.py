"""Fail where a page of the built site would load anything from another host.

python docs/site/check.py out/site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADED = {
    *(("audio", "src"), ("embed", "src"), ("iframe", "src"), ("img", "src"), ("img", "srcset")),
    *(("link", "href"), ("object", "data"), ("script", "src"), ("source", "src")),
    *(("source", "srcset"), ("track", "src"), ("video", "poster"), ("video", "src")),
}
"""What a browser fetches by itself; where ``a`` leads, it goes only when it is told to."""

FOREIGN = re.compile(r"\s*(?:https?:)?//")
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?\s*(?:https?:)?//""")


class Loads(HTMLParser):
    """Collects what a page loads from elsewhere, and whether it brings Mermaid for its diagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self.diagram = self.mermaid = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        for name, value in attrs:
            text = value or ""
            if (tag, name) in LOADED and any(map(FOREIGN.match, text.split(","))):
                self.foreign.append(f"<{tag} {name}={text}>")
            if name == "style" and IN_STYLE.search(text):
                self.foreign.append(f"<{tag} style={text}>")
            self.diagram |= name == "class" and "mermaid" in text.split()
            # Where it is absent the theme's script fetches it from unpkg.com.
            self.mermaid |= (tag, name) == ("script", "src") and text.endswith("mermaid.min.js")


def problems(site: Path) -> list[str]:
    """What pages and style sheets below ``site`` load from another host, a line each."""
    found = []
    for page in sorted(site.rglob("*.html")):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        missing = (
            ["a diagram, and no mermaid.min.js"] if loads.diagram and not loads.mermaid else []
        )
        found += [f"{page.relative_to(site)}: {what}" for what in (*loads.foreign, *missing)]
    for sheet in sorted(site.rglob("*.css")):
        if IN_STYLE.search(sheet.read_text(encoding="utf-8")):
            found.append(f"{sheet.relative_to(site)}: loads from another host")
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1])
    found = problems(site)
    pages = len(list(site.rglob("*.html")))
    print("\n".join(found) or f"{pages} pages, none loads anything from another host: {site}")
    sys.exit(bool(found) or not pages)
