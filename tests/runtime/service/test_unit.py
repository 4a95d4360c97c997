"""The unit: systemd reads what was meant, and does what the docs say of it."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy import api
from segclip_deploy.cli.run import run
from segclip_deploy.errors import BadArtifact, BadInput, UsageError
from segclip_deploy.runtime.service.unit import unit_path, unit_word
from tests.support.helpers import call
from tests.support.systemd import with_systemd

NASTY = "abc \t\n\r\"'\\%$;{}()[]|&<>*?~#=-+!:@/.^`,ü中\x01\x1f\x7f\udcff\udcfe"
DUMP = "import os, sys; open(sys.argv[1], 'wb').write(b'\\0'.join(map(os.fsencode, sys.argv[2:])))"


def nasty_words() -> list[str]:
    chance = random.Random(0)
    whole = [
        "",
        "$HOME",
        "${HOME}",
        "$$",
        "%n %%",
        r"a\x41\n",
        "a\\",
        '"quoted"',
        "'one'",
        "-o",
        ";",
    ]
    chosen = ["".join(chance.choices(NASTY, k=chance.randint(1, 12))) for _ in range(150)]
    single = [chr(code) for code in range(1, 128)]
    return [*whole, *single, *(f"a{c}b" for c in single), *chosen]


def test_systemd_itself_reads_every_word_as_it_was(tmp_path: Path) -> None:
    units, told = tmp_path / "units", tmp_path / "told"
    units.mkdir()
    place = tmp_path / "100 % $HOME ü"
    place.mkdir()
    words = nasty_words()
    for number, python in enumerate((sys.executable, str(place / "py;thon"))):
        if number:
            Path(python).write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
            Path(python).chmod(0o755)
        line = " ".join(map(unit_word, ("-c", DUMP, f"{told}{number}", *words)))
        (units / f"u{number}.service").write_text(
            f"[Service]\nType=oneshot\nExecStart={unit_word(python, program=True)} {line}\n"
        )
    (units / "paths.service").write_text(
        f"[Unit]\nRequiresMountsFor={unit_path(place)}\n"
        f"[Service]\nReadWritePaths={unit_path(place)}\nExecStart=/bin/true\n"
    )
    shown = with_systemd(
        units,
        "systemctl --user start u0 u1; systemctl --user show -p RequiresMountsFor,ReadWritePaths paths",
    )
    for number in range(2):
        found = Path(f"{told}{number}").read_bytes().split(b"\0")
        assert found == [os.fsencode(word) for word in words]
    plain = shown.replace("\\$", "$")  # as systemctl shows it, for a shell
    assert [shlex.split(line) for line in sorted(plain.splitlines())] == [
        [f"ReadWritePaths={place}"],
        [f"RequiresMountsFor={place}"],
    ]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\x7fb"])
def test_a_path_that_no_unit_can_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="a unit of systemd cannot name a path") as caught:
        unit_path(Path("/data") / name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def engine(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "my engine"))


def lines_of(unit: Any) -> dict[str, str]:
    """Settings by name; of those that stand twice, the last."""
    text = unit.text.replace(" \\\n   ", "")
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in pairs}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize(
    "source",
    [
        *("/dev/video7", "rtsp://u:p@10.0.0.2/main?a=$b%c", "{tmp}/in put", "csi:0?width=1280"),
        "gst:videotestsrc ! video/x-raw,width=64 ! videoflip",
    ],
)
def test_systemd_finds_nothing_wrong_with_the_unit(
    engine: Path, source: str, tmp_path: Path
) -> None:
    (tmp_path / "in put").mkdir()
    unit = api.service(
        engine, source.format(tmp=tmp_path), out=tmp_path / "o ut", keep=10**10, deadline_ms=40.0
    )
    path = tmp_path / unit.path.name
    path.write_text(unit.text)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout + told.stderr) == (0, "")
    path.write_text(unit.text.replace("WatchdogSec", "WatchdogSecs"))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'WatchdogSecs'" in told.stderr  # it would have said so


def test_the_unit_says_what_a_service_needs(engine: Path, tmp_path: Path) -> None:
    unit = api.service(engine, "rtsp://10.0.0.2/main", out=tmp_path / "out", keep=10**10)
    found = lines_of(unit)
    assert found["Type"] == "notify"
    assert found["Restart"] == "on-failure"
    assert found["RestartPreventExitStatus"] == "1 2 3"
    assert found["SuccessExitStatus"] == "130"
    assert float(found["WatchdogSec"]) > 75  # seconds that a camera may be away, and one attempt
    assert "network-online.target" in found["After"]
    assert str(tmp_path / "out") in found["ReadWritePaths"]
    assert found["ExecStart"].endswith(
        f"rtsp://10.0.0.2/main -o {tmp_path}/out --keep 10000MB --service"
    )
    assert "network" not in api.service(engine, "/dev/video9", out="/d", keep=10**9).text


@pytest.mark.parametrize(
    ("source", "groups"),
    [
        ("/dev/null", None),  # root's
        ("/dev/video9", "video"),
        ("/dev/ttyTHS1", "dialout"),
        ("csi:0", "video"),
        ("usb:0", "video"),
        ("rtsp://10.0.0.2/main", None),
    ],
)
def test_the_groups_are_those_of_the_source(
    source: str, groups: str | None, engine: Path, tmp_path: Path
) -> None:
    unit = api.service(engine, source, out=tmp_path / "out", keep=10**9)
    assert lines_of(unit).get("SupplementaryGroups") == groups


@pytest.mark.parametrize("source", ["{secret}", "gst:rtspsrc location={secret} ! decodebin"])
def test_a_password_stays_out_of_the_unit(source: str, engine: Path, tmp_path: Path) -> None:
    secret = source.format(secret="rtsp://user:hunter2@10.0.0.2/main?token=tok")
    unit = api.service(engine, secret, out=tmp_path / "out", keep=10**10)
    assert "hunter2" not in str(unit.to_json())
    assert "tok" not in unit.text.replace("token=", "").replace("?***", "")
    found = lines_of(unit)
    assert "${SOURCE_1} -o" in found["ExecStart"]
    assert unit.secrets is not None
    assert found["EnvironmentFile"] == str(unit.secrets)
    assert f'SOURCE_1="the source with its password" into {unit.secrets}' in unit.text


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    keep=st.integers(1, 10**13),
    threads=st.integers(0, 64),
    deadline_ms=st.none() | st.floats(0.001, 1e6),
    margin_below=st.none() | st.integers(1, 255),
    overlap=st.none() | st.integers(0, 500),
    no_overlay=st.booleans(),
    bands=st.none() | st.tuples(*[st.integers(1, 12)] * 3),
    scale=st.none() | st.tuples(st.floats(-1e5, 1), st.floats(2, 1e5)),
    jsonl=st.none() | st.just("-"),
)
def test_the_command_of_a_unit_says_what_the_call_said(**options: Any) -> None:
    """Parsed again by the command line itself; the bytes of --keep to a part in 10^12."""
    from segclip_deploy.api import serving

    words = list(serving._words(options))
    found = run.make_context("run", ["engine", "source", "-o", "out", *words]).params
    keep = found.pop("keep")
    assert keep == pytest.approx(options.pop("keep"), abs=1, rel=1e-12)
    assert {name: found[name] for name in options} == options


def test_what_no_service_can_be_is_refused(engine: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "out", "keep": 10**9}
    with pytest.raises(UsageError, match="would fill the disk; add --keep"):
        api.service(engine, "/dev/video0", out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"^--jsonl: a copy of the lines would grow"):
        api.service(engine, "/dev/video0", **given, jsonl=tmp_path / "copy.jsonl")
    with pytest.raises(BadInput, match="no such file or folder"):
        api.service(engine, tmp_path / "none.mp4", **given)
    with pytest.raises(BadArtifact):
        api.service(tmp_path, "/dev/video0", **given)
    with pytest.raises(TypeError, match="polygons"):
        api.service(engine, "/dev/video0", **given, polygons=True)
    for words, code in ((["--print"], 0), ([], 2), (["--print", "--json"], 2), (["--json"], 0)):
        result = call("service", engine, "/dev/video0", "-o", "/data/out", "--keep", "1GB", *words)
        assert result.exit_code == code, result.stderr
