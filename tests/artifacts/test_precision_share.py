"""What is counted as running as planned: never more than an engine tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segclip_deploy.artifacts.bundle_record import PlannedOperator
from segclip_deploy.artifacts.precision_share import Layer, count_precision, node_blocks

NAMES = [f"block{index}/Conv" for index in range(6)]
TYPES = [None, "int8", "uint8", "fp8", "fp16", "bf16", "fp32", "int32"]


def operator(macs: int, precision: str) -> PlannedOperator:
    return PlannedOperator(macs=macs, precision=precision)  # type: ignore[arg-type]


def layer(nodes: str, *reads: str | None) -> Layer:
    named = tuple(nodes.split())
    return Layer(
        name=nodes, type=None, blocks=node_blocks(named), reads=reads, writes=(), nodes=named
    )


plans = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(operator, st.integers(0, 1000), st.sampled_from(["int8", "fp16", "fp32"])),
)
engines = st.lists(
    st.builds(
        lambda nodes, reads: layer(" ".join(nodes), *reads),
        st.lists(st.sampled_from([*NAMES, "relu/Q", "relu/DQ", "x/Cast.fp16", "b/Clip"])),
        st.lists(st.sampled_from(TYPES), max_size=3),
    ),
    max_size=6,
)


@given(plans, engines)
def test_every_planned_mac_is_counted_once_and_what_is_kept_is_told(
    plan: dict[str, PlannedOperator], engine: list[Layer]
) -> None:
    shares = count_precision(plan, engine)
    low = {p for p in ("int8", "fp16") if sum(o.macs for o in plan.values() if o.precision == p)}
    assert {share.precision for share in shares} == low
    for share in shares:
        own = {name: o.macs for name, o in plan.items() if o.precision == share.precision}
        assert share.planned == sum(own.values())
        lost = {**share.fell_back, **share.unknown}
        assert len(lost) == len(share.fell_back) + len(share.unknown)
        assert lost == {name: own[name] for name in lost}
        assert share.kept == sum(macs for name, macs in own.items() if name not in lost)
        assert list(share.fell_back.values()) == sorted(share.fell_back.values(), reverse=True)
        as_planned = ("int8", "uint8") if share.precision == "int8" else ("fp16",)
        for name in own:
            naming = [one for one in engine if name in one.nodes]
            if name not in lost:
                assert naming
                assert all(one.reads[0] in as_planned for one in naming)
            if name in share.fell_back:
                assert naming
                assert all(one.reads[0] not in (None, *as_planned) for one in naming)


@given(plans)
def test_an_engine_of_a_layer_an_operator_keeps_its_plan(plan: dict[str, PlannedOperator]) -> None:
    shares = count_precision(plan, [layer(name, one.precision) for name, one in plan.items()])
    assert all(share.kept == share.planned and share.reaches(100) for share in shares)
    assert all(share.kept == 0 for share in count_precision(plan, []))


@pytest.mark.parametrize(
    ("planned", "layers", "found"),
    [
        ("int8", [layer("a/Conv", "int8")], "kept"),
        ("int8", [layer("a/Conv", "uint8", "int8", "fp32")], "kept"),  # OpenVINO: weights, bias
        ("int8", [layer("a/Conv a/Add b/DQ", "int8", "fp16")], "kept"),  # and the skip input
        ("int8", [layer("a/Conv", "fp16")], "fell_back"),
        ("int8", [layer("a/Conv", "fp16", "int8")], "fell_back"),  # the skip input alone
        ("int8", [layer("a/Conv", "fp32")], "fell_back"),
        ("fp16", [layer("a/Conv", "fp16")], "kept"),
        ("fp16", [layer("a/Conv", "fp32")], "fell_back"),
        ("fp16", [layer("a/Conv", "bf16")], "fell_back"),
        ("fp16", [layer("a/Conv", "int8")], "unknown"),
        ("int8", [layer("a/Conv", None)], "unknown"),
        ("int8", [layer("a/Conv")], "unknown"),
        ("int8", [layer("a/Clip", "int8")], "unknown"),  # no layer names it
        ("int8", [layer("a/Conv b/Conv", "int8")], "kept"),  # two convolutions side by side
        ("int8", [layer("a/Conv b/Conv", "int8", "fp16")], "unknown"),
        ("int8", [layer("a/Conv other/MatMul", "int8")], "unknown"),  # fused of two plans
        ("int8", [layer("relu/Q a/Conv", "fp16")], "unknown"),  # it quantizes inside
        ("fp16", [layer("x/Cast.fp16 a/Conv", "fp32")], "unknown"),
        ("int8", [layer("w/DQ a/Conv", "fp16")], "fell_back"),
        ("int8", [layer("a/Conv", "int8"), layer("a/Conv", "fp16")], "unknown"),
        ("int8", [layer("a/Conv", "int8"), layer("a/Conv", "int8")], "kept"),
    ],
)  # fmt: skip
def test_what_a_layer_reads_decides(planned: str, layers: list[Layer], found: str) -> None:
    plan = {
        "a/Conv": operator(80, planned),
        "b/Conv": operator(20, planned),
        "other/MatMul": operator(5, "fp32"),
    }
    (share,) = count_precision(plan, [*layers, layer("b/Conv", planned)])
    where = "fell_back" if "a/Conv" in share.fell_back else "unknown"
    assert found == (where if "a/Conv" in {**share.fell_back, **share.unknown} else "kept")


def test_a_share_in_words_promises_no_more_than_there_is() -> None:
    plan = {"a/Conv": operator(99_999, "int8"), "b/Conv": operator(1, "int8")}
    (share,) = count_precision(plan, [layer("a/Conv", "int8")])
    assert str(share) == "INT8: 99.9% of the planned MACs run so, 0.0% fell back, 0.0% unknown"
    assert share.reaches(99)
    assert not share.reaches(100)
