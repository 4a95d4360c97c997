"""From values to ranges: counting without rounding, and what each method must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.calibration.table import Range

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)

# Also whole numbers, powers of two and their neighbours, which lie at the edges of bins.
NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    st.integers(-4096, 4096).map(float),
    st.tuples(st.integers(-1000, 1000), st.sampled_from([-np.inf, np.inf])).map(
        lambda at: float(np.nextafter(np.float32(at[0] / 256), np.float32(at[1])))
    ),
).filter(lambda value: value == 0 or abs(value) > 1e-30)
VALUES = arrays(np.float32, st.integers(1, 60), elements=NUMBERS)


def counted(*batches: NDArray[np.float32]) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    return seen


@PROPERTY
@given(VALUES, st.data())
def test_counts_are_those_of_one_histogram_made_at_the_final_top(
    values: NDArray[np.float32], data: st.DataObject
) -> None:
    """In whatever order and batches the values come."""
    order = data.draw(st.permutations(range(len(values))))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(values)), max_size=4, unique=True)))
    seen = counted(*(part for part in np.split(values[order], cuts) if len(part)))
    assert (seen.low, seen.high) == (values.min(), values.max())
    assert seen.counts.sum() == len(values)
    largest = float(np.abs(values).max())
    assert seen.top == 0 if largest == 0 else seen.top / 2 <= largest < seen.top
    scale = 2048 / seen.top if seen.top else 0
    bins = np.floor(values.astype(np.float64) * scale).astype(int) + 2048
    np.testing.assert_array_equal(seen.counts, np.bincount(bins, minlength=4096))


def distributions() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    made = {
        "normal": rng.standard_normal(100_000),
        "heavy": rng.standard_t(3, 100_000),
        "relu": np.maximum(rng.standard_normal(100_000), 0),
        "relu6": np.clip(rng.normal(2, 4, 100_000), 0, 6),
        "uniform": rng.uniform(-1, 1, 100_000),
        "positive": rng.uniform(3, 5, 100_000),
        "skewed": rng.exponential(1, 100_000) - 0.1,
        "tiny": rng.standard_normal(100_000) * 1e-12,
    }
    return {name: values.astype(np.float32) for name, values in made.items()}


DISTRIBUTIONS = distributions()


def errors(values: NDArray[np.float32], span: Range) -> NDArray[np.float64]:
    """Mean squared error of 8-bit rounding: S8 within ±magnitude, U8 from low to high."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    signed, unsigned = span.magnitude / 127, (high - low) / 255
    zero = np.rint(-low / unsigned)
    rounded = (
        np.clip(np.rint(values / signed), -127, 127) * signed,
        (np.clip(np.rint(values / unsigned) + zero, 0, 255) - zero) * unsigned,
    )
    return np.array([np.square(values - r, dtype=np.float64).mean() for r in rounded])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_range_lies_within_the_extremes_and_keeps_what_its_method_promises(name: str) -> None:
    values = DISTRIBUTIONS[name]
    low, high = float(values.min()), float(values.max())
    spans = {method: choose(counted(values)) for method, choose in METHODS.items()}
    for span in spans.values():
        assert low <= span.low <= span.high <= high
        assert 0 < span.magnitude <= max(-low, high)
    assert spans["minmax"] == Range(low, high, max(-low, high))
    kept = spans["percentile"]
    assert np.mean(values >= kept.low) >= 0.9999
    assert np.mean(values <= kept.high) >= 0.9999
    assert np.mean(np.abs(values) <= kept.magnitude) >= 0.9999
    # Judged on values, chosen on bins: equal up to the width of a bin.
    assert (errors(values, spans["mse"]) <= 1.02 * errors(values, spans["minmax"])).all()


def test_a_uniform_distribution_is_not_clipped() -> None:
    for method in ("percentile", "mse", "entropy"):
        span = METHODS[method](counted(DISTRIBUTIONS["uniform"]))
        assert span.magnitude > 0.98, method


def test_a_heavy_outlier_is_clipped_by_all_but_minmax() -> None:
    values = np.append(DISTRIBUTIONS["normal"], np.float32(30))
    spans = {method: choose(counted(values)) for method, choose in METHODS.items()}
    assert spans["minmax"].magnitude == spans["minmax"].high == 30
    assert max(spans["percentile"].magnitude, spans["percentile"].high) < 5
    for method in ("mse", "entropy"):
        assert max(spans[method].magnitude, spans[method].high) < 28, method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.9, 1.0, -0.37, 6.0, 1e-15, 3e38])
def test_a_tensor_of_one_value_keeps_it(method: str, value: float) -> None:
    single = np.float32(value)
    span = METHODS[method](counted(np.full(1000, single), np.full(10, single)))
    assert span == Range(single, single, abs(single))


@pytest.mark.parametrize("method", METHODS)
def test_zeros_hide_nothing(method: str) -> None:
    """As after a ReLU of what is hardly ever positive."""
    values = np.zeros(100_000, np.float32)
    values[:100] = np.linspace(0.5, 0.9, 100)
    span = METHODS[method](counted(values))
    assert span.low == 0
    assert span.high > 0.85
    assert span.magnitude > 0.85


def test_what_lies_in_the_first_bin_has_no_say_in_entropy() -> None:
    """Zeros are exact at any scale: a million of them choose the range that the rest chooses.

    Values near zero fill the bin beside theirs, so that it is not empty.
    """
    rest = np.abs(DISTRIBUTIONS["heavy"][:20_000]) + np.float32(1e-3)
    zeros = np.zeros(1_000_000, np.float32)
    alone, among = (METHODS["entropy"](counted(*parts)) for parts in ((rest,), (rest, zeros)))
    assert among.magnitude == alone.magnitude < 0.9 * rest.max()


def test_entropy_counts_the_first_bin_like_the_second() -> None:
    """Migacz' search, written out bin by bin; without that rule, or with a bin of 0, it ends elsewhere."""
    values = (np.random.default_rng(3).laplace(size=20_000) ** 3).astype(np.float32)
    seen = counted(values)
    bins = [float(count) for count in seen.magnitudes]
    last = max(index for index, count in enumerate(bins) if count) + 1

    def divergence(counts: list[float], size: int) -> float:
        reference = [*counts[: size - 1], counts[size - 1] + sum(counts[size:])]
        levels: dict[int, list[int]] = {}
        for index in range(size):
            levels.setdefault(index * 128 // size, []).append(index)
        model = [0.0] * size
        for members in levels.values():
            filled = [index for index in members if reference[index] > 0]
            for index in filled:
                model[index] = sum(counts[i] for i in members) / len(filled)
        p, q = (np.array(each) / sum(each) for each in (reference, model))
        used = p > 0
        return float((p[used] * np.log(p[used] / np.where(q == 0, 1e-4, q)[used])).sum())

    def chosen(first: float) -> float:
        sizes = [*range(128, last, 8), last]
        best = min(sizes, key=lambda size: divergence([first, *bins[1:]], size))
        return best * seen.top / 2048

    assert METHODS["entropy"](seen).magnitude == chosen(bins[1])
    assert len({chosen(bins[1]), chosen(bins[0]), chosen(0)}) == 3
