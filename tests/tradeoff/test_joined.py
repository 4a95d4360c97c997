"""``report``: results of several machines side by side, on figures whose answer is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segclip_deploy import api
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import SegclipError, UsageError
from segclip_deploy.tradeoff.join_results import join_results
from segclip_deploy.tradeoff.joined import RANK, Joined
from segclip_deploy.tradeoff.joined_plots import draw_fronts, draw_gains, draw_shared
from segclip_deploy.tradeoff.measured_machine import load_machines
from segclip_deploy.tradeoff.mission import SENSORS, Mission, margins
from segclip_deploy.tradeoff.results import RESULTS, load_results
from segclip_deploy.tradeoff.roofline import LowerBound
from segclip_deploy.tradeoff.row import Row
from tests.support.helpers import call
from tests.support.sweeps import BUNDLES, conditions, device, sweep_folder, sweep_row

ORIN, NANO = "NVIDIA Jetson AGX Orin Developer Kit", "NVIDIA Jetson Orin Nano Developer Kit"
TRAP = "<script>alert(1)</script>$x_{"


def three(times: float = 1, **changes: Any) -> list[Row]:
    """One bundle in three precisions: each faster and less accurate than the one before it."""
    return [
        sweep_row("fp32", 60 * times, 0.72, **changes),
        sweep_row("fp16", 30 * times, 0.719, **changes),
        sweep_row("int8", 20 * times, 0.715, **changes),
    ]


def join(*folders: Path) -> Joined:
    return join_results(load_machines(folders))


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    return sweep_folder(tmp_path / "orin", conditions(device(ORIN)), three())


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    """Twice as slow, and of another engine file."""
    rows = three(2, sha256="9" * 64)
    return sweep_folder(tmp_path / "nano", conditions(device(NANO)), rows)


def test_equal_artefacts_of_two_boards_are_found_by_what_they_were_built_from(
    orin: Path, nano: Path
) -> None:
    joined = join(orin, nano)
    assert joined.differences == joined.quantized_apart == ()
    assert [one.bundle_sha256 for one in joined.shared] == [*BUNDLES.values()]
    for one in joined.shared:
        assert [row.machine for row in one.rows] == [
            "Jetson AGX Orin, MAXN",
            "Jetson Orin Nano, MAXN",
        ]
        assert one.times == pytest.approx((1, 2))
        assert {row.precision for row in one.rows} == {one.precision}
        assert one.miou_spread == 0


def test_a_board_in_two_power_modes_is_two_machines(tmp_path: Path) -> None:
    def named(mode: str, times: float) -> list[Row]:
        return [
            replace(
                row,
                name=f"{row.name} · {mode}",
                reference=f"{row.reference} · {mode}",
                power_mode=mode,
            )
            for row in three(times)
        ]

    measured_in = replace(conditions(device(ORIN)), power_modes=("15W", "MAXN"))
    joined = join(sweep_folder(tmp_path / "o", measured_in, [*named("15W", 3), *named("MAXN", 1)]))
    assert [front.machine for front in joined.machines] == [
        "Jetson AGX Orin, 15W",
        "Jetson AGX Orin, MAXN",
    ]
    assert [front.recommended is None for front in joined.machines] == [True, False]
    assert [one.times for one in joined.shared] == [pytest.approx((1, 3))] * 3
    assert {one.condition for one in joined.differences} == {"power mode"}
    assert len(joined.gains) == 2


def test_what_was_quantized_apart_or_overlaps_otherwise_is_no_equal_artefact(
    orin: Path, tmp_path: Path
) -> None:
    rows = [*three()[:2], sweep_row("int8", 20, 0.71, bundle_sha256="8" * 64)]
    apart = sweep_folder(tmp_path / "apart", conditions(device(NANO)), rows)
    joined = join(orin, apart)
    assert [one.precision for one in joined.shared] == ["fp32", "fp16"]
    (told,) = joined.quantized_apart
    assert told.startswith(f"int8 for tensorrt, of FP32 bundle {BUNDLES['fp32'][:12]}: Jetson AGX")
    wide = sweep_folder(tmp_path / "wide", conditions(device(NANO)), three(overlap=0))
    joined = join(orin, wide)
    assert joined.shared == ()
    assert [one.condition for one in joined.differences] == ["window overlap"]


def test_two_engines_of_one_machine_are_not_across_machines(orin: Path, tmp_path: Path) -> None:
    rows = [three()[0], sweep_row("fp32", 70, 0.72, name="2 threads", threads=2)]
    twice = sweep_folder(tmp_path / "twice", conditions(device()), rows)
    assert join(twice).shared == ()
    (shared,) = join(orin, twice).shared
    assert [row.threads for row in shared.rows] == [0, 0, 2]


def test_results_that_do_not_say_what_was_scored_are_compared_with_none(tmp_path: Path) -> None:
    old = three(ground_truth_sha256=None, bundle_sha256=None)
    folders = [
        sweep_folder(tmp_path / str(number), conditions(device(board)), old)
        for number, board in enumerate((ORIN, NANO))
    ]
    joined = join(*folders)
    assert [machine.axes for machine in joined.machines] == [1, 2]
    assert joined.shared == joined.quantized_apart == ()
    assert [one.condition for one in joined.differences] == ["ground truth"]
    assert all("(results of schema 3)" in machine.marks[0] for machine in joined.machines)


def test_equal_artefacts_whose_accuracy_differs_are_told(orin: Path, tmp_path: Path) -> None:
    rows = [*three()[:2], sweep_row("int8", 20, 0.713)]
    other = sweep_folder(tmp_path / "other", conditions(device(NANO)), rows)
    assert [round(one.miou_spread, 6) for one in join(orin, other).shared] == [0, 0, 0.2]


def test_each_machine_has_its_own_front(orin: Path, tmp_path: Path) -> None:
    rows = [*three(), sweep_row("planned", 25, 0.714, name="beaten")]
    other = sweep_folder(tmp_path / "other", conditions(device(NANO)), rows)
    first, second = join(orin, other).machines
    front = ("dubai · trt · int8", "dubai · trt · fp16", "dubai · trt · fp32")
    assert first.front == second.front == front
    assert tuple(row.name for row in first.front_rows) == front
    assert [row.name for row in second.rows] == [front[0], "beaten", *front[1:]]
    assert second.recommended == "beaten"


def test_int8_is_compared_with_fp16_of_the_same_machine_and_target(
    orin: Path, tmp_path: Path
) -> None:
    rows = [three()[0], sweep_row("int8", 20, 0.715), sweep_row("planned ≤ 0.3", 24, 0.718)]
    without = sweep_folder(tmp_path / "without", conditions(device(NANO)), rows)
    gain, *others = join(orin, without).gains
    assert gain.fp16 is not None
    assert (gain.row.name, gain.fp16.name) == ("dubai · trt · int8", "dubai · trt · fp16")
    assert gain.times == pytest.approx(1.5)
    assert gain.points == pytest.approx(-0.4)
    assert gain.interval is not None
    assert 1.4 < gain.interval[0] < 1.5 < gain.interval[1] < 1.6
    assert [(one.row.precision, one.fp16, one.times) for one in others] == [
        ("int8", None, None),
        ("planned ≤ 0.3", None, None),
    ]


@pytest.mark.parametrize(
    ("changes", "of_rows", "condition"),
    [
        ({"frame_sizes": ((512, 512),)}, {}, "frame sizes"),
        ({"frames": 2}, {}, "frames"),
        ({}, {"ground_truth_sha256": "7" * 64}, "ground truth"),
        ({}, {"ground_truth_sha256": None}, "ground truth"),
    ],
)
def test_what_must_not_be_compared_has_axes_of_its_own(
    changes: dict[str, Any], of_rows: dict[str, Any], condition: str, orin: Path, tmp_path: Path
) -> None:
    unlike = conditions(device(NANO), **changes)
    other = sweep_folder(tmp_path / "other", unlike, three(2, **of_rows))
    joined = join(orin, other)
    assert [(one.condition, one.apart) for one in joined.differences] == [(condition, True)]
    assert [one.axes for one in joined.machines] == [1, 2]
    for one in joined.shared:  # the artefacts are equal, and their times stand side by side
        assert one.times == (1, 1)
        assert one.miou_spread == 0


def test_axes_show_their_own_machines_and_nothing_is_left_out(
    orin: Path, nano: Path, tmp_path: Path
) -> None:
    other = sweep_folder(tmp_path / "other", conditions(device(NANO), frames=2), three(3))
    more = [*three(), sweep_row("planned", 90, 0.71)]  # beaten, and on no front
    alone, both, unlike = join(orin), join(orin, nano), join(orin, other)
    beaten = join(sweep_folder(tmp_path / "more", conditions(device(ORIN)), more))
    picture = draw_fronts(alone, 1)
    assert draw_fronts(unlike, 1) == picture
    assert picture not in (draw_fronts(beaten, 1), draw_fronts(both, 1))
    assert draw_shared(both, both.shared, 1) != draw_shared(both, both.shared[:2], 1)
    assert draw_gains(both, both.gains) != draw_gains(both, both.gains[:1])


@pytest.mark.parametrize(
    ("of_device", "changes", "of_rows", "condition"),
    [
        ({"segclip_deploy": "0.6.0"}, {}, {}, "segclip-deploy"),
        ({"power_mode": "15W"}, {}, {}, "power mode"),
        ({"governor": "performance"}, {}, {}, "governor"),
        ({}, {"split": "test"}, {}, "split"),
        ({}, {"samples": 10}, {}, "samples"),
        ({}, {}, {"backend": "TensorRT 10.7.0"}, "library of tensorrt"),
    ],
)
def test_other_unlike_conditions_are_told_side_by_side(
    of_device: dict[str, Any],
    changes: dict[str, Any],
    of_rows: dict[str, Any],
    condition: str,
    orin: Path,
    tmp_path: Path,
) -> None:
    unlike = conditions(device(NANO, **of_device), **changes)
    other = sweep_folder(tmp_path / "other", unlike, three(2, **of_rows))
    joined = join(orin, other)
    (difference,) = joined.differences
    assert (difference.condition, difference.apart) == (condition, False)
    assert len(set(difference.values.values())) == len(difference.values) == 2
    assert [one.axes for one in joined.machines] == [1, 1]


def test_a_workstation_has_no_power_mode_that_could_be_unlike(orin: Path, tmp_path: Path) -> None:
    elsewhere = conditions(device(), dataset="/home/me/dubai")
    station = sweep_folder(tmp_path / "station", elsewhere, three(9))
    assert join(orin, station).differences == ()


def test_what_makes_a_figure_doubtful_stands_beside_it(orin: Path, tmp_path: Path) -> None:
    hot = [10.0, 20.0, 30.0] * 5 + [12.0, 24.0, 36.0] * 5  # each frame by a fifth
    rows = [*three(), sweep_row("planned ≤ 0.3", 20, 0.718, frame_ms=tuple(hot))]
    busy = conditions(device(NANO), load=8.5, plan_split="val")
    steady, other = join(orin, sweep_folder(tmp_path / "busy", busy, rows)).machines
    assert not any(row.marks for row in steady.rows)
    busy_mark = "busy: a load of 8.5 on 8 cores"
    assert other.marks == (busy_mark,)
    marks = {row.precision: row.marks for row in other.rows}
    assert marks["int8"] == (busy_mark,)
    assert marks["planned ≤ 0.3"] == (
        busy_mark,
        "not steady: +20 % from its first half to its second",
        "planned on the images that score it",
    )


def test_a_mission_is_asked_of_every_machine(orin: Path, tmp_path: Path) -> None:
    flight = Mission(SENSORS["dji-p1"], 100, 15)
    asked = sweep_folder(tmp_path / "asked", conditions(device(NANO)), three(2), flight=flight)
    (mission,) = join(orin, asked).missions
    assert mission.flight == flight
    expected = [
        sorted(margins(flight, load_results(folder).rows, RANK), key=lambda one: -one.margin)
        for folder in (orin, asked)
    ]
    assert [one.margin for one in mission.margins] == [*expected[0], *expected[1]]
    assert [one.row.name for one in mission.margins] == [one.margin.name for one in mission.margins]


def test_a_bound_stands_beside_the_fastest_of_its_network_on_its_board(
    orin: Path, tmp_path: Path
) -> None:
    def bound(board: str, precision: str, sha256: str | None = BUNDLES["fp32"]) -> LowerBound:
        return LowerBound(
            bundle="dubai",
            bundle_sha256=sha256,
            board=board,
            precision=precision,
            ms=0.5,
            by_memory=0.2,
        )

    bounds = (
        bound("agx-orin", "fp16"),
        bound("agx-orin", "int8"),
        bound("thor", "int8"),
        bound("agx-orin", "int8", "6" * 64),
        bound("agx-orin", "int8", None),
    )
    station = sweep_folder(tmp_path / "station", conditions(device()), three(9), bounds=bounds)
    again = sweep_folder(tmp_path / "again", conditions(device(NANO)), three(0.1), bounds=bounds)
    found = join(orin, station, again).bounds
    assert tuple(one.bound for one in found) == bounds
    fp16, int8, *others = found
    assert fp16.ms == pytest.approx(0.8 * 30 / 6)
    assert int8.ms == pytest.approx(0.8 * 20 / 6)
    assert fp16.row is not None
    assert (fp16.row.machine, fp16.row.precision) == ("Jetson AGX Orin, MAXN", "fp16")
    assert all((one.ms, one.row) == (None, None) for one in others)


def test_machines_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [
        sweep_folder(tmp_path / place, conditions(device(ORIN), made=place), three())
        for place in ("a/x", "b/x", "y")
    ]
    names = [machine.name for machine in load_machines(folders)]
    orin = "Jetson AGX Orin, MAXN"
    assert names == [f"{orin} (x) ({folders[0]})", f"{orin} (x) ({folders[1]})", f"{orin} (y)"]


@pytest.mark.faults
def test_the_page_needs_no_network_escapes_names_and_describes_its_pictures(
    orin: Path, tmp_path: Path
) -> None:
    bounds = [
        LowerBound(
            bundle=TRAP,
            bundle_sha256=BUNDLES["fp32"],
            board="agx-orin",
            precision="int8",
            ms=1,
            by_memory=0,
        )
    ]
    where = conditions(
        device(TRAP, power_mode=TRAP), dataset=f"/d/{TRAP}", frame_sizes=((512, 512),), split=TRAP
    )
    rows = three(2, backend=TRAP)
    trapped = sweep_folder(
        tmp_path / "<i>",
        where,
        [*rows, sweep_row("int8", 19, 0.715, name=TRAP)],
        bounds=bounds,
        flight=Mission(SENSORS["dji-p1"], 100, 15),
    )
    worse = [*three(2)[:2], sweep_row("int8", 40, 0.713)]
    nano = sweep_folder(tmp_path / "nano", conditions(device(NANO)), worse)
    out = tmp_path / "joined.html"
    made = api.report([orin, trapped, nano], out=out)
    page = out.read_text()
    assert page.startswith("<!doctype html>")
    assert not re.search(r"""(src|href)=["'](?!data:image/png;base64,)|url\(|@import""", page)
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$x_{" in page
    pictures = re.findall(r"<img[^>]*>", page)
    # Two fronts, two gains, the bounds, and equal artefacts on one of the two pairs of axes.
    assert len(pictures) == 6
    assert all(re.search(r'alt="[^"]{30,}"', picture) for picture in pictures)
    assert "100 m above ground at 15 m/s" in page
    assert page.count("on the same images differs by 0.20 points") == 1
    (shared,) = [one for one in made.joined.shared if one.precision == "int8" and one.miou_spread]
    assert shared.label in page


def test_the_command_says_what_the_call_returns(orin: Path, tmp_path: Path) -> None:
    slow = conditions(device(NANO, power_mode="15W"), load=9)
    folders = (orin, sweep_folder(tmp_path / "slow", slow, [sweep_row("fp32", 99, 0.72)]))
    out = tmp_path / "j.html"
    done = call("report", *folders, "-o", out)
    assert done.exit_code == 0, done.output
    assert "Jetson AGX Orin, MAXN: 3 engines" in done.stdout
    assert done.stdout.endswith(f"{out}\n")
    assert (
        "unlike power mode: Jetson AGX Orin, MAXN: MAXN; Jetson Orin Nano, 15W: 15W" in done.stderr
    )
    assert "Jetson Orin Nano, 15W: busy: a load of 9 on 8 cores" in done.stderr
    done = call("report", *folders, "-o", out, "--json")
    assert json.loads(done.stdout) == {
        "report": str(out),
        **json.loads(json.dumps(join(*folders).to_json())),
    }


def test_a_machine_whose_engines_all_failed_is_joined(orin: Path, tmp_path: Path) -> None:
    empty = sweep_folder(tmp_path / "empty", conditions(device(NANO)), [])
    out = tmp_path / "j.html"
    api.report([orin, empty], out=out)
    assert "no engine passed verification" in out.read_text()


@pytest.mark.faults
def test_what_is_no_sweep_is_refused_in_one_line_and_nothing_is_written(
    orin: Path, tmp_path: Path
) -> None:
    out = tmp_path / "j.html"

    def said(*folders: Path) -> str:
        with pytest.raises(SegclipError) as caught:
            api.report([orin, *folders], out=out)
        assert not out.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path = tmp_path / "other"
    again = f"segclip-deploy benchmark BUNDLE --eval DATASET -o {path}"
    assert said(path) == f"{path}: no folder of a sweep, it has no results.json; {again}"
    (path / "work").mkdir(parents=True)
    assert "its sweep has not ended" in said(path)
    assert said(path).endswith(again)
    (path / "results.json").write_text("{")
    assert said(path).startswith(f"{path / 'results.json'}: ")
    assert said(path).endswith(again)
    data = RESULTS.dump(load_results(orin))
    (path / "results.json").write_text(json.dumps({**data, "schema": RESULTS.schema + 1}))
    assert "is newer than this version reads" in said(path)
    lost = {**data, "rows": data["rows"][1:]}  # the reference of the others
    (path / "results.json").write_text(json.dumps(lost))
    assert "has no reference, no samples or no windows" in said(path)
    (path / "results.json").write_text(json.dumps(data))  # a copy
    assert said(path) == (
        f"{path}: holds the same results as {orin}; segclip-deploy report {orin} -o OUT.html"
    )
    assert said(orin).startswith(f"{orin}: holds the same results as {orin}; ")
    file = orin / "results.json"
    assert said(file) == f"{file}: a file, not the folder of a sweep; give {orin}"


@pytest.mark.parametrize("name", ["results.json", "report.html", "."])
def test_a_joined_report_takes_no_file_of_a_sweep(name: str, orin: Path) -> None:
    before = (orin / "results.json").read_bytes()
    with pytest.raises(UsageError, match=r"-o joined\.html$"):
        api.report(orin, out=orin / name)
    assert (orin / "results.json").read_bytes() == before
    with pytest.raises(UsageError, match=r"report DIR\.\.\. -o"):
        api.report([], out="x.html")
