"""A user's ``.pth``: what is in it, read without running anything, and where its weights lie."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segclip_deploy.errors import BadArtifact, BadInput

__all__ = [
    "TOP",
    "Entry",
    "FoundWeights",
    "KeyInfo",
    "KeyList",
    "find_weights",
    "list_keys",
    "read_torch_file",
    "strip_command",
    "tensors_of",
]

TOP = "."
"""Names the file itself as the place of the weights, as in ``--key .``"""

_WRAPPERS = ("module", "_orig_mod", "model", "ema")
"""What training wrappers put before every name: DDP, torch.compile, Lightning, EMA."""

_STRIP = (
    "import sys, torch; "
    "keep = lambda x: keep(x.state_dict()) if isinstance(x, torch.nn.Module) else "
    "{k: keep(v) for k, v in x.items() if type(k) in (str, int)} if isinstance(x, dict) else "
    "x if isinstance(x, torch.Tensor) or type(x) in (int, float, str, bool) else None; "
    'torch.save(keep(torch.load(sys.argv[1], map_location="cpu", weights_only=False)), sys.argv[2])'
)
"""One line, since a message is; it is never run here."""


@dataclass(frozen=True)
class Entry:
    """One value of a file.

    Attributes:
        place: names of the mappings it lies in, outermost first, joined by dots; "" is the file.
        key: its name there.
        value: a tensor, or anything else that is no mapping.
    """

    place: str
    key: str
    value: object

    @property
    def name(self) -> str:
        """Place and key."""
        return f"{self.place}.{self.key}" if self.place else self.key


@dataclass(frozen=True)
class FoundWeights:
    """Where a network's weights lie in a file.

    Attributes:
        name: what all their names begin with, without the last dot; ``TOP`` where nothing.
        weights: the tensors there, named as they are within it.
        beside: other places of the file, with their numbers of tensors.
    """

    name: str
    weights: Mapping[str, Tensor]
    beside: Mapping[str, int]


def read_torch_file(path: Path) -> list[Entry]:
    """Every value of a ``.pth``, read without running anything in it.

    NumPy's numbers and types are let through; any other class or function is not.

    Raises:
        BadArtifact: unreadable, or it holds objects of other classes, which are named.
        BadInput: it holds no mapping.
    """
    with torch.serialization.safe_globals(_numpy_globals()):
        try:
            stored: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types on damaged files
            raise _refusal(path, error) from error
    if not isinstance(stored, Mapping):
        raise BadInput(f"holds a {type(stored).__name__}, not named tensors", where=path)
    entries: list[Entry] = []
    try:
        entries.extend(_walk(stored, ""))
    except RecursionError as error:  # a mapping may hold itself
        raise BadArtifact("its mappings nest without end", where=path) from error
    return entries


def tensors_of(entries: Collection[Entry], path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by full name.

    Raises:
        BadInput: there are none, or two have one name.
    """
    found = [(entry.name, entry.value) for entry in entries if isinstance(entry.value, Tensor)]
    if not found:
        there = list(dict.fromkeys(e.name.partition(".")[0] for e in entries))
        keys = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
        raise BadInput(f"holds no tensors; its keys are: {keys or 'none'}", where=path)
    tensors = dict(found)
    if len(tensors) < len(found):
        twice = Counter(name for name, _ in found).most_common(1)[0][0]
        raise BadInput(f"two of its tensors have the name {twice}", where=path)
    return tensors


def find_weights(
    entries: Collection[Entry],
    wanted: Collection[str],
    path: Path,
    *,
    key: str | None = None,
    rename: Callable[[str], str] = str,
) -> FoundWeights:
    """Where the tensors with the wanted names lie.

    A place is whatever can stand before wanted names: mappings within mappings, ``module.`` and
    other prefixes alike. What fits less than half as many names as the best place is none.

    Args:
        entries: of the file.
        wanted: the network's names of tensors.
        path: the file, for messages.
        key: look in this place only; ``TOP`` takes the file as it is.
        rename: a name in the file → the network's.

    Raises:
        BadInput: two places fit, and ``key`` does not choose; or nothing is at ``key``.
    """
    tensors = tensors_of(entries, path)
    start = "" if key in (None, TOP) else f"{key}."
    within = [name for name in tensors if name.startswith(start)]
    if not within:
        raise BadInput(
            f"no tensors are at {key}",
            where=path,
            fix=f"it has {_told(_top_level(tensors))}; all names: "
            + shlex.join(["segclip-deploy", "import", "--list", str(path)]),
        )
    counts: Counter[str] = Counter()
    for name in within:
        for prefix in _prefixes(name, start):
            counts[prefix] += rename(name[len(prefix) :]) in wanted
    best = max(counts.values())
    if best:
        found = [prefix for prefix, count in counts.items() if 2 * count >= best]
    else:
        found = _by_size([e for e in entries if isinstance(e.value, Tensor)], start)
    if key is not None and start in found:
        found = [start]
    sizes = {p: sum(name.startswith(p) for name in within) for p in found}
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} places hold such weights: {_told({_name(p): n for p, n in sizes.items()})}",
            where=path,
            fix=f"choose one: --key {shlex.quote(_name(found[0]))}",
        )
    (prefix,) = found
    rivals = [p for p, count in counts.items() if best and 2 * count >= best and p != prefix]
    inner = tuple(p for p in rivals if p.startswith(prefix))
    mappings = {e.name: e.place for e in entries}
    fitting = {mappings[n] for n in within if rename(n.removeprefix(prefix)) in wanted}
    taken = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
        and not (inner and name.startswith(inner))
        and (not best or mappings[name] in fitting)  # an optimizer beside them is no leftover
    }
    return FoundWeights(
        _name(prefix),
        {name[len(prefix) :]: tensor for name, tensor in taken.items()},
        _top_level([name for name in tensors if name not in taken]),
    )


def strip_command(path: Path) -> str:
    """A shell line that writes the tensors and plain values of a file to another; it runs its code."""
    out = path.with_name(path.stem + ".plain.pth")
    return shlex.join(["python", "-c", _STRIP, str(path), str(out)])


@dataclass(frozen=True)
class KeyInfo:
    """A value of a file.

    Attributes:
        place: the mapping it lies in, ``TOP`` for the file itself.
        key: its name there.
        shape: of a tensor; None of anything else.
        dtype: of a tensor, or the class of anything else.
    """

    place: str
    key: str
    shape: tuple[int, ...] | None
    dtype: str


@dataclass(frozen=True)
class KeyList:
    """What a file holds, in its order."""

    keys: tuple[KeyInfo, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"keys": [{**asdict(k), "shape": k.shape and list(k.shape)} for k in self.keys]}


def list_keys(path: Path) -> KeyList:
    """Every value of a ``.pth``, in its order.

    Raises:
        BadArtifact: unreadable, or it holds objects of other classes.
        BadInput: it holds no mapping.
    """
    entries = read_torch_file(path)
    return KeyList(
        tuple(KeyInfo(e.place or TOP, e.key, *_shape_and_dtype(e.value)) for e in entries)
    )


def _shape_and_dtype(value: object) -> tuple[tuple[int, ...] | None, str]:
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype).removeprefix("torch.")
    return None, type(value).__name__


def _walk(stored: Mapping[Any, Any], place: str) -> Iterator[Entry]:
    for key, value in stored.items():
        if isinstance(value, (list, tuple)) and any(
            isinstance(v, (Tensor, Mapping)) for v in value
        ):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{place}.{key}" if place else str(key))
        else:
            yield Entry(place, str(key), value)


def _prefixes(name: str, start: str) -> Iterator[str]:
    """What of a name may be a place: ``start``, and more up to each further dot."""
    yield start
    for dot in re.finditer(r"\.", name):
        if dot.end() > len(start) and dot.end() < len(name):
            yield name[: dot.end()]


def _by_size(tensors: Collection[Entry], start: str) -> list[str]:
    """Where no name fits: the mapping with the most tensors, and those with half as many."""
    sizes = Counter(f"{e.place}." if e.place else "" for e in tensors if e.name.startswith(start))
    most = max(sizes.values())
    found = []
    for place in (place for place, size in sizes.items() if 2 * size >= most):
        names = [e.name for e in tensors if e.name.startswith(place)]
        prefix = place
        while wrapper := next(
            (w for w in _WRAPPERS if all(n.startswith(f"{prefix}{w}.") for n in names)), None
        ):
            prefix += f"{wrapper}."
        found.append(prefix)
    return found


def _top_level(names: Collection[str]) -> dict[str, int]:
    return dict(Counter(name.partition(".")[0] for name in names))


def _name(prefix: str) -> str:
    return prefix.removesuffix(".") or TOP


def _told(sizes: Mapping[str, int]) -> str:
    shown = [f"{name} ({size} tensors)" for name, size in sizes.items()]
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")


def _numpy_globals() -> list[Any]:
    """What a pickle of a NumPy number or type refers to, under the names of NumPy 1 and 2."""
    types = {np.dtype(code).type for code in "?bBhHiIlLqQefdgFDGSUmM"}
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSUmM"}
    scalar = np.float64(0).__reduce__()[0]
    return [
        np.dtype,
        *types,
        *dtypes,
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    ]


def _refusal(path: Path, error: Exception) -> BadArtifact:
    """What keeps a file from being read: the classes it names, or else what torch says first."""
    names: list[str] = []
    with suppress(Exception):  # not a zip archive, or damaged
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    if not names:
        names = re.findall(r"(?:GLOBAL|class) ([\w.]+\.\w+)", str(error))[:1]
    if names:
        return BadArtifact(
            f"holds objects of {', '.join(names[:5])}{', …' if len(names) > 5 else ''}, "
            "which only code can read",
            where=path,
            fix="the next command keeps its tensors and plain values; it runs the file's code with "
            f"all rights of yours, so trust whoever made the file: {strip_command(path)}",
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return BadArtifact(
        f"not readable as plain weights ({reason})",
        where=path,
        fix="save it again with torch.save(model.state_dict(), FILE)",
    )
