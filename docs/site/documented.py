"""What is public has a docstring: a strict build fails where there is none. Names that share a line get one each."""

from __future__ import annotations

import logging
import re
from typing import Any

from griffe import Extension, Function, Module, Object

log = logging.getLogger("mkdocs.documented")

SHARED = re.compile(r"^    (\w+(?:, \w+)+)(:.*(?:\n     +.*)*)", re.MULTILINE)
"""``    width, height: pixels.`` of a section: griffe knows one name a line."""


class Documented(Extension):
    """Warns of public modules, classes, functions and methods without a docstring."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Give names that share a line of a docstring one each."""
        if obj.docstring is not None:
            obj.docstring.value = SHARED.sub(_apart, obj.docstring.value)

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Look at everything, once all of it is known."""
        if pkg.name == "segclip_deploy":
            _look(pkg)


def _apart(match: re.Match[str]) -> str:
    return "\n".join(f"    {name}{match[2]}" for name in match[1].split(", "))


def _look(one: Object) -> None:
    if one.docstring is None:
        log.warning("%s:%s: %s has no docstring", one.filepath, one.lineno, one.path)
    for member in one.members.values():
        if member.is_alias or not (member.is_module or member.is_class or member.is_function):
            continue
        overrides = isinstance(member, Function) and any(
            str(decorator.value).endswith("override") for decorator in member.decorators
        )
        public = member.is_module or (member.is_public and not overrides)
        if public and isinstance(member, Object) and not member.name.startswith("_"):
            _look(member)
