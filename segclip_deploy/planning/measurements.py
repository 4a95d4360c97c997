"""What was measured for a plan, kept in a file: the same call goes on after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from segclip_deploy.artifacts.files import read_json, write_json
from segclip_deploy.artifacts.records import Record, convert
from segclip_deploy.errors import BadArtifact, BadInput, SegclipError, command

__all__ = ["Measurements"]

R = TypeVar("R", bound=Record)


class Measurements:
    """Records by the digest of all that they depend on.

    Args:
        path: JSON; made where there is none.
        identity: what all of them depend on, as JSON.

    Raises:
        BadArtifact: the file is damaged.
    """

    def __init__(self, path: Path, *identity: object) -> None:
        self._path, self._identity = path, identity
        self._remedy = f"{command('rm', path)}, and the same command measures it again"
        self._known: dict[str, Mapping[str, Any]] = {}
        if path.is_file():
            try:
                self._known = read_json(path)
            except SegclipError as error:
                raise BadArtifact(error.what, where=path, fix=self._remedy) from error

    def get(self, kind: type[R], measure: Callable[[], R], *depends: object) -> R:
        """What ``measure`` gives, or gave before for the same identity, ``kind`` and ``depends`` (JSON).

        Raises:
            BadArtifact: what is kept is damaged.
        """
        parts = json.dumps([kind.__name__, *self._identity, *depends])
        key = hashlib.sha256(parts.encode()).hexdigest()
        if key not in self._known:
            found = measure()
            self._known[key] = found.to_json()
            write_json(self._path, self._known)
            return found
        try:
            return convert(self._known[key], kind, noun=f"a {kind.__name__.lower()}")
        except BadInput as error:
            raise BadArtifact(error.what, where=self._path, fix=self._remedy) from error
