"""Records with any values, for properties that hold of all of them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import Phase, find, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.bundle_record import BundleRecord, Parents
from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.calibration.table import (
    BandStatistics,
    CalibrationTable,
    CoverageRecord,
    GraphStatistics,
    Range,
)
from segclip_deploy.tradeoff.mission import SENSORS, Mission

_T = TypeVar("_T")

_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: st.integers(0, 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    # What can be printed, as vocabularies ask for: YAML takes U+0085 for the end of a line.
    # It refuses values that none has.
    Mission: st.builds(
        Mission,
        sensor=st.sampled_from(sorted(SENSORS.values(), key=str)),
        altitude=st.floats(1, 500),
        speed=st.floats(1, 50),
        front=st.floats(0, 0.9),
        side=st.floats(0, 0.9),
    ),
    str: st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8),
}


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a record's type, or of a type that a field may have."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if issubclass_of(kind, enum.Enum):
        return st.sampled_from(kind)
    if dataclasses.is_dataclass(kind) or issubclass_of(kind, msgspec.Struct):
        hints = get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{name: any_of(hint) for name, hint in hints.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return any_of(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of(*map(any_of, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(any_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(any_of, arguments))
    if origin is Mapping:
        return st.dictionaries(*map(any_of, arguments), max_size=3)
    raise TypeError(f"no values of {kind}")


def some(kind: type[_T], that: Callable[[_T], bool] = lambda _: True) -> _T:
    """A record of this type for which something holds; not the smallest, which takes a minute."""
    quick = settings(phases=[Phase.generate], derandomize=True, deadline=None, database=None)
    return find(any_of(kind), that, settings=quick)


def issubclass_of(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def small_record(**fields: Any) -> BundleRecord:
    """Of an FP32 bundle; ``fields`` are what differs."""
    given: dict[str, Any] = {
        "input": InputSpec(height=64, width=96, batch=2),
        "outputs": ("labels", "logits"),
        "precision": "fp32",
        "opset": 19,
        "factory": None,
        "model": ModelSpec(classes=5, text_width=16),
        "vocabulary": load_vocabulary("dubai"),
        "text_encoder": "random",
        "trained_for_int8": (),
        "files": {},
        "parents": Parents(checkpoint="0" * 64),
        "parity": (),
        "folding": (),
        "blocks": (),
        "tools": {},
    }
    return BundleRecord(**given | fields)


def small_table(
    ranges: Mapping[str, Range] | None = None,
    lowering: Lowering = Lowering.CPU,
    **fields: Any,
) -> CalibrationTable:
    """Of no tile, with ranges of one graph; ``fields`` are what differs."""
    given: dict[str, Any] = {
        "bundle": "0" * 64,
        "method": "minmax",
        "graphs": {lowering: GraphStatistics(ranges or {})},
        "tiles": (),
        "bands": BandStatistics((1.0, 2.0, 3.0), (0.1, 0.2, 0.3)),
        "coverage": CoverageRecord(1, 20, 1, 0, 0, 0, {}, {}, 0.5, 1.0),
    }
    return CalibrationTable(**given | fields)
