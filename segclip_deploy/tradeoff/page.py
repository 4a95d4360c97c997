"""HTML pages that need no network: templates of this folder, with their pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from segclip_deploy._optional import require

__all__ = ["embedded_png", "render_page"]


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """The HTML of a template; everything that is put into it is escaped.

    Args:
        template: name of its file.
        values: by the names that it uses; one that is missing is an error.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    jinja2 = require("jinja2", why="a report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = files(__package__).joinpath(template).read_text(encoding="utf-8")
    page: str = environment.from_string(text).render(values)
    return page


def embedded_png(png: bytes) -> str:
    """A PNG as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
