"""Three stages that overlap: order, errors, the newest frame, the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.runtime.streaming.pipeline import Channel, Pipeline
from segclip_deploy.runtime.streaming.summary import Percentiles


def same(item: int) -> int:
    return item


def pipeline(read: Iterator[int], *, newest: bool = False, **stages: object) -> Pipeline:  # type: ignore[type-arg]
    stop = stages.pop("stop", None) or threading.Event()
    work, write = stages.get("work", same), stages.get("write", same)
    return Pipeline(read, work, write, stop=stop, newest=newest)  # type: ignore[arg-type]


def test_files_lose_nothing_and_keep_their_order() -> None:
    before = threading.active_count()
    assert list(pipeline(iter(range(500)))) == list(range(500))
    assert threading.active_count() == before


def test_the_stages_run_at_the_same_time() -> None:
    """Four items wait for each other: a barrier that one thread alone would never pass."""
    together = threading.Barrier(3, timeout=10)

    def read() -> Iterator[int]:
        for item in range(3):
            if item == 2:
                together.wait()
            yield item

    def work(item: int) -> int:
        if item == 1:
            together.wait()
        return item

    def write(item: int) -> int:
        if item == 0:
            together.wait()
        return item

    assert list(pipeline(read(), work=work, write=write)) == [0, 1, 2]


def test_a_live_source_keeps_the_newest_and_counts_the_rest() -> None:
    begun, busy = threading.Event(), threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        assert begun.wait(10)  # frame 0 is being worked on
        yield from range(1, 100)
        busy.set()

    def work(item: int) -> int:
        begun.set()
        assert busy.wait(10)
        return item

    run = pipeline(camera(), work=work, newest=True)
    assert list(run) == [0, 99]
    assert run.dropped == 98


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_an_error_in_any_stage_is_raised_after_what_was_done_before(stage: str) -> None:
    def failing(item: int) -> int:
        if item == 3:
            raise OSError(28, "No space left on device")
        return item

    read = map(failing, range(10)) if stage == "read" else iter(range(10))
    stages = {} if stage == "read" else {stage: failing}
    before, done = threading.active_count(), []
    with pytest.raises(OSError, match="No space"):
        done.extend(pipeline(read, **stages))
    assert done == [0, 1, 2]
    assert threading.active_count() == before


def test_a_stop_finishes_the_item_in_work_and_begins_no_other() -> None:
    stop = threading.Event()
    written = []

    def work(item: int) -> int:
        if item == 2:
            stop.set()  # as a signal would, in the midst of it
        return item

    def write(item: int) -> int:
        time.sleep(0.01)
        written.append(item)
        return item

    assert list(pipeline(iter(range(1000)), work=work, write=write, stop=stop)) == [0, 1, 2]
    assert written == [0, 1, 2]


def test_a_stop_is_noticed_while_nothing_comes() -> None:
    stop = threading.Event()

    def silent() -> Iterator[int]:
        threading.Timer(0.05, stop.set).start()
        assert stop.wait(10)
        yield from ()

    assert list(pipeline(silent(), stop=stop)) == []


@pytest.mark.faults
def test_a_ctrl_c_at_any_time_leaves_no_item_half_written() -> None:
    """It comes while all that is left to do is to write, where a join would forget the thread."""
    written: list[int] = []

    def write(item: int) -> int:
        if item == 1:
            working.wait()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        written.append(item)
        return item

    def work(item: int) -> int:
        if item == 2:
            working.set()
        return item

    working, before = threading.Event(), threading.active_count()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(pipeline(iter(range(3)), work=work, write=write))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert written == [0, 1, 2]
    assert threading.active_count() == before


def test_leaving_the_loop_ends_the_threads() -> None:
    before = threading.active_count()
    for _ in pipeline(iter(range(1000))):
        break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_full_channel_makes_its_producer_wait() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    thread = threading.Thread(target=channel.put, args=(1,))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert next(channel.take()) == 0
    thread.join(5)
    assert not thread.is_alive()
    assert channel.dropped == 0


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=300), st.sampled_from([1, 50, 95, 100]))
def test_percentiles_are_those_of_the_sorted_list_within_one_percent(
    values: list[float], percent: int
) -> None:
    counted = Percentiles()
    for value in values:
        counted.add(value)
    exact = sorted(values)[-(-percent * len(values) // 100) - 1]
    assert counted.at(percent) == pytest.approx(exact, rel=0.01)
