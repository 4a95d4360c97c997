"""Engine verification, the «flight check»: does this engine, on this machine, still say what the model said?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.engine_record import Check, Verification
from segclip_deploy.artifacts.golden import Golden
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.windows import margin_of

__all__ = [
    "MAX_LOGIT_ERROR",
    "MAX_LOSS",
    "MAX_MARGIN_ERROR",
    "MIN_AGREEMENT",
    "verify",
]

MAX_LOGIT_ERROR = 1e-3
"""Logits are cosines times τ ≤ 100; float32 sums over some hundred channels differ by 1e-5
between two orders of summation, so 1e-3 leaves room and still fails on any real change."""

MIN_AGREEMENT: Mapping[str, float] = {"fp32": 0.9999, "fp16": 0.998, "int8": 0.99}
"""Share of pixels with equal labels, between an engine and the reference run of its own model. In
FP32 only ties within the logit error may flip; in FP16 and INT8 an engine may also sum in another
order, and a value at the edge of a level then falls to the next."""

MAX_LOSS = 0.005
"""How much less an engine may agree with FP32 than its model did when it was quantized, and with
that model than rounding its FP16 tensors alone leaves."""

MAX_MARGIN_ERROR = 1
"""Of 255: a logit error of 1e-3 moves it by a quarter, and rounding makes one of that."""

_Run = tuple[list[int], dict[str, NDArray[Any]]]  # which tile in which slot, and the outputs

_BAND = 3  # pixels to each side of a boundary between labels


def verify(backend: Backend, golden: Golden, names: tuple[str, ...]) -> Verification:
    """Run the golden tiles through an engine, in every slot of every batch it takes, twice.

    Args:
        backend: of the golden tiles' input size.
        golden: the model's answers, and FP32's.
        names: class names, by class index.
    """
    batches = backend.inputs[0].batches
    tiles = len(golden.tiles)
    runs: list[_Run] = []
    repeated = True
    # Every slot holds another tile where there are as many, and every tile visits slot 0.
    for batch, start in product(batches, range(tiles)):
        picked = [(start + slot) % tiles for slot in range(batch)]
        once, again = (_infer(backend, golden.tiles[picked]) for _ in range(2))
        repeated &= all(np.array_equal(once[k], again[k], equal_nan=True) for k in once)
        runs.append((picked, once))
    picks = [picked for picked, _ in runs]
    labels = np.concatenate([outputs["labels"] for _, outputs in runs])
    own = golden.labels if golden.reference is None else golden.reference
    needed = _needed(golden)
    finite = _check_finite(runs) if "logits" in runs[0][1] else []
    checks = [
        *finite,  # first: where logits are not, labels are wrong for that reason
        _check_labels("labels", labels, own, runs, needed),
        Check(
            name="classes",
            passed=int(labels.max()) < len(names),
            detail=f"labels up to {labels.max()} of {len(names)} classes",
        ),
    ]
    if golden.reference is not None:
        was = float((golden.reference == golden.labels).mean())
        checks.append(_check_labels("fp32", labels, golden.labels, runs, was - MAX_LOSS))
    if batches[-1] > 1:
        checks.append(_check_batches(labels, runs, tiles, needed))
    if "logits" in runs[0][1]:
        checks += _check_logits(runs, golden)
    if "margin" in runs[0][1] and golden.precision == "fp32":
        checks.append(_check_margin(runs, golden))
    checks.append(
        Check(name="repeats", passed=repeated, detail="the same input twice, compared bit by bit")
    )
    expected = np.concatenate([golden.labels[picked] for picked in picks])
    flips = np.bincount(expected[labels != expected], minlength=len(names))
    return Verification(
        engine=backend.name,
        checks=tuple(checks),
        flips=dict(zip(names, flips.tolist(), strict=True)),
    )


def _needed(golden: Golden) -> float:
    """Least agreement with the reference run.

    An engine rounds FP16 tensors between its INT8 operators; that alone may move more labels than
    INT8 is allowed to.
    """
    least = MIN_AGREEMENT[golden.precision]
    if golden.precision != "int8" or golden.agreement is None:
        return least
    return min(least, golden.agreement - MAX_LOSS)


def _infer(backend: Backend, tiles: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    outputs = backend.infer({backend.inputs[0].name: tiles})
    return {name: values.copy() for name, values in outputs.items()}


def _worst_batch(equal: NDArray[np.bool_], runs: list[_Run]) -> tuple[float, str]:
    """The share of equal pixels in the batch with the fewest, and which that is, if there are several.

    One batch that is broken must not drown among the others.
    """
    sizes = np.concatenate([[len(picked)] * len(picked) for picked, _ in runs])
    shares = {int(n): float(equal[sizes == n].mean()) for n in np.unique(sizes)}
    worst = min(shares, key=lambda n: shares[n])
    return shares[worst], f" at batch {worst}, the worst" if len(shares) > 1 else ""


def _check_labels(
    name: str,
    labels: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    runs: list[_Run],
    needed: float,
) -> Check:
    expected = np.concatenate([reference[picked] for picked, _ in runs])
    equal, band = labels == expected, _boundary_band(expected)
    agreement, at = _worst_batch(equal, runs)
    near = equal[band].mean() if band.any() else 1
    detail = (
        f"{agreement:.4%} equal{at}, at least {needed:.2%} needed; "
        f"{near:.4%} within {_BAND} pixels of a boundary"
    )
    if agreement < needed and not labels[~equal].any():
        # The maximum of values that are not numbers is the first of them.
        detail += "; all that differ are of class 0, as where values overflow and are not finite"
    return Check(name=name, passed=agreement >= needed, detail=detail)


def _check_batches(labels: NDArray[np.uint8], runs: list[_Run], tiles: int, needed: float) -> Check:
    """Do all slots of all batches say what slot 0 of the smallest says, batch 1 if there is?"""
    first = labels[: tiles * len(runs[0][0]) : len(runs[0][0])]  # each tile was there once
    picked = np.concatenate([picked for picked, _ in runs])
    alike, at = _worst_batch(labels == first[picked], runs)
    return Check(
        name="batch",
        passed=alike >= needed,
        detail=f"{alike:.4%} of the labels of any slot{at} are those of slot 0 in batch "
        f"{len(runs[0][0])}, at least {needed:.2%} needed",
    )


def _check_finite(runs: list[_Run]) -> list[Check]:
    wrong = sum(int((~np.isfinite(outputs["logits"])).sum()) for _, outputs in runs)
    what = f"{wrong} logits are not, as where values overflow" if wrong else "all logits are"
    return [Check(name="finite", passed=not wrong, detail=what)]


def _check_logits(runs: list[_Run], golden: Golden) -> list[Check]:
    if golden.precision != "fp32":  # their logits are not FP32's; their labels were compared
        return []
    error = np.max([np.abs(o["logits"] - golden.logits[picked]).max() for picked, o in runs])
    return [
        Check(
            name="logits",
            passed=bool(error <= MAX_LOGIT_ERROR),
            detail=f"off by up to {error:.1e}, at most {MAX_LOGIT_ERROR:g} allowed",
        ),
    ]


def _check_margin(runs: list[_Run], golden: Golden) -> Check:
    expected = np.stack([margin_of(logits) for logits in golden.logits]).astype(int)
    error = max(int(np.abs(o["margin"] - expected[picked]).max()) for picked, o in runs)
    return Check(
        name="margin",
        passed=error <= MAX_MARGIN_ERROR,
        detail=f"off by up to {error} of 255, at most {MAX_MARGIN_ERROR} allowed",
    )


def _boundary_band(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (N, H, W) within ``_BAND`` pixels, along an axis, of another label."""
    band = np.zeros(labels.shape, dtype=bool)
    for axis in (1, 2):
        for shift in range(1, _BAND + 1):
            inner = [slice(None)] * 3
            inner[axis] = slice(shift, None)
            outer = [slice(None)] * 3
            outer[axis] = slice(None, -shift)
            differ = labels[tuple(inner)] != labels[tuple(outer)]
            band[tuple(inner)] |= differ
            band[tuple(outer)] |= differ
    return band
