"""Records: what a file says, typed and versioned. They are read strictly; each has one writer.

A record is a ``msgspec.Struct``: a frozen dataclass that checks every field when it is read, and
says where in the file one is wrong. msgspec is one small wheel without dependencies, for every
platform that flies; pydantic does the same and takes 14 times as long to import.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from segclip_deploy._optional import upgrade_command
from segclip_deploy.artifacts.files import read_json, write_json
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact

__all__ = ["Format", "Migration", "Record", "convert", "replace"]

replace = msgspec.structs.replace
"""A copy of a record with other values of some fields, as ``dataclasses.replace``."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""From the parsed record of one schema to that of the next."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is written into a file as JSON or YAML."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON, by name; without a schema, which belongs to the file."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data


R = TypeVar("R", bound=Record)


def convert(data: Mapping[str, Any], to: type[R], *, noun: str) -> R:
    """A record of parsed JSON or YAML that has no schema of its own.

    Args:
        noun: what it should be, for people: ``"a valid model spec"``.

    Raises:
        BadInput: a field is not as it should be.
    """
    try:
        return msgspec.convert(data, to)
    except msgspec.ValidationError as error:
        raise BadInput(f"not {noun} ({_told(str(error))})") from error
    except UnicodeError as error:  # half of a surrogate pair, which YAML may hold
        raise BadInput(f"not {noun} ({error})") from error


@dataclass(frozen=True)
class Format(Generic[R]):
    """How one kind of record lies in files.

        BUNDLE = Format("a bundle record", BundleRecord, schema=2, migrations={1: _nested})
        record = BUNDLE.read(path, fix="segclip-deploy export CKPT -o BUNDLE")

    Attributes:
        noun: what it is, for people.
        type: of the record.
        schema: the number that is written, and the newest that is read.
        migrations: by older schema. What has none is refused.
        sealed: whether the file carries a digest of itself, so that an edit is noticed.
    """

    noun: str
    type: type[R]
    schema: int
    migrations: Mapping[int, Migration] = field(default_factory=dict)
    sealed: bool = False

    def write(self, path: Path, record: R) -> None:
        """Write a record as JSON, atomically.

        Raises:
            ValueError: a number in it is not finite.
        """
        write_json(path, self.dump(record))

    def read(self, path: Path, *, fix: str) -> R:
        """Read what ``write`` wrote.

        Args:
            fix: the command that makes the file anew.

        Raises:
            BadArtifact: unreadable, of a newer schema or one too old, or a field is not as it should be.
            StaleArtifact: it is sealed, and was edited.
        """
        try:
            data = read_json(path)
        except BadArtifact as error:
            raise BadArtifact(error.what, where=path, fix=fix) from error
        return self.parse(data, where=path, fix=fix)

    def dump(self, record: R) -> dict[str, Any]:
        """The record as JSON, its schema first."""
        data = {"schema": self.schema, **Record.to_json(record)}
        return {**data, "digest": _digest(data)} if self.sealed else data

    def digest(self, record: R) -> str:
        """SHA-256 of what is written, without itself."""
        return _digest({"schema": self.schema, **Record.to_json(record)})

    def parse(self, data: Mapping[str, Any], *, where: object, fix: str) -> R:
        """The record in parsed JSON or YAML; arguments and errors as of ``read``."""
        data = dict(data)
        seal = data.pop("digest", None) if self.sealed else None
        found = _digest(data) if self.sealed else None
        schema = data.pop("schema", None)
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise BadArtifact(
                f"not {self.noun} (schema: expected a whole number)", where=where, fix=fix
            )
        if schema > self.schema:
            raise BadArtifact(
                f"its schema {schema} is newer than this version reads ({self.schema})",
                where=where,
                fix=upgrade_command(),
            )
        try:
            for old in range(schema, self.schema):
                if old not in self.migrations:
                    raise BadArtifact(
                        f"its schema {old} is older than this version reads ({self.schema})",
                        where=where,
                        fix=fix,
                    )
                data = self.migrations[old](data)
            record = msgspec.convert(data, self.type)
        except msgspec.ValidationError as error:
            raise BadArtifact(_told(str(error)), where=where, fix=fix) from error
        except (BadInput, LookupError, TypeError, AttributeError, UnicodeError) as error:
            # of a noun that checks itself, or of a migration that finds less than it needs
            told = error.what if isinstance(error, BadInput) else f"not {self.noun} ({error!r})"
            raise BadArtifact(told, where=where, fix=fix) from error
        if seal != found:
            raise StaleArtifact("edited since it was written", where=where, fix=fix)
        return record

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of the file, for docs and for other programs."""
        made = msgspec.json.schema(self.type)
        top = made["$defs"][self.type.__name__]
        seal = {"digest": {"type": "string"}} if self.sealed else {}
        top["properties"] = {"schema": {"const": self.schema}, **top["properties"], **seal}
        top["required"] = ["schema", *top.get("required", []), *seal]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_AT = re.compile(r"(?P<what>.*?)(?: - at `(?P<key>key in )?\$\.?(?P<path>.*)`)?", re.DOTALL)
_EXPECTED = re.compile(
    r"Expected `(?P<kinds>[^`]+)`(?P<more>.*?)(?:, got `?(?P<got>[^`]+)`?)?", re.DOTALL
)
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>[^`]*)`")


def _told(message: str) -> str:
    """What msgspec says, for people: ``input.height: expected a whole number, got text``."""
    at = _AT.fullmatch(message)
    assert at is not None  # it matches anything
    what, path = at["what"], (at["key"] or "") + (at["path"] or "")
    if field_ := _FIELD.fullmatch(what):
        path = f"{path}.{field_['name']}".lstrip(".")
        what = "is missing" if field_["how"].startswith("missing") else "is not known"
    elif expected := _EXPECTED.fullmatch(what):
        kinds = " or ".join(_WORDS.get(k, k) for k in expected["kinds"].split(" | "))
        got = expected["got"]
        what = f"expected {kinds}{expected['more']}" + (
            f", got {_WORDS.get(got, got)}" if got else ""
        )
    elif what.startswith("Invalid enum value "):
        what = f"{what.removeprefix('Invalid enum value ')} is none of its values"
    return f"{path}: {what}" if path else what
