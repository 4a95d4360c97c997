"""Servers, passwords and calls home: files end, cameras return, secrets and data stay here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy._optional import load
from segclip_deploy.errors import BadInput, DeviceLost
from segclip_deploy.runtime.formats.address import Address, display_name
from segclip_deploy.runtime.io.sources.live import LiveSource
from segclip_deploy.runtime.io.sources.opening import find_sources
from segclip_deploy.runtime.io.sources.video import read_live, read_video
from tests.support.fake_cli import open_fake
from tests.support.faults import MAIN, ROOT
from tests.support.films import make_film, textured
from tests.support.helpers import call
from tests.support.servers import Server, serve, serve_rtsp

pytestmark = pytest.mark.faults

SECRET = "Xk7-s3cr3t"
LOGIN = f"operator9:{SECRET}"


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that vanishes is waited for hardly at all."""
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.live._FIRST_WAIT_S", 0.001)
    defaults = {"patience_s": 0.05, "read": read_live}
    monkeypatch.setattr(LiveSource.__init__, "__kwdefaults__", defaults)


# ---- files of servers


def site(folder: Path) -> Path:
    """What a server has: films, pictures, and lists of parts that end or go on."""
    folder.mkdir()
    make_film(folder / "plain.mp4", 24)
    make_film(folder / "bare", 24, container="mpegts", bf="0", g="5")
    make_film(folder / "film.mjpeg", 6, codec="mjpeg", container="mjpeg")
    Image.fromarray(textured(0)).save(folder / "one.jpg")
    Image.fromarray(textured(0)).save(folder / "one.tif")
    pages = [Image.fromarray(textured(n)) for n in range(3)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    parts = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.96,\npart.ts\n"
    shutil.copy(folder / "bare", folder / "part.ts")
    (folder / "done.m3u8").write_text(f"{parts}#EXT-X-ENDLIST\n")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\ndone.m3u8\n")
    (folder / "live.m3u8").write_text(parts)
    (folder / "chunked").mkdir()
    shutil.copy(folder / "bare", folder / "chunked" / "film.ts")
    return folder


@pytest.mark.usefixtures("fake_engine")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("plain.mp4", 24), ("bare", 24), ("film.mjpeg", 6), ("one.jpg", 1), ("one.tif", 1)),
        *(("pages.tif", 3), ("done.m3u8", 24), ("list.m3u8", 24), ("chunked/film.ts", 24)),
    ],
)
def test_a_file_of_a_server_ends_at_its_end(tmp_path: Path, name: str, count: int) -> None:
    with serve(site(tmp_path / "site")) as server:
        out = tmp_path / "out"
        result = call("run", "engine", server.url(name), "-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["done"], report["dropped"], report["reconnects"]) == (count, 0, 0)
    assert "there again" not in result.stderr
    assert "vanished" not in result.stderr
    lines = [json.loads(line) for line in (out / "areas.jsonl").read_text().splitlines()]
    assert len(lines) == count
    assert {line["image"] for line in lines} == {server.url(name)}
    assert len({line["labels"] for line in lines}) == count


@pytest.mark.usefixtures("fake_engine")
def test_a_picture_of_a_server_gets_the_labels_of_the_file(tmp_path: Path) -> None:
    folder = site(tmp_path / "site")
    with serve(folder) as server:
        for source, out in ((server.url("one.jpg"), "a"), (folder / "one.jpg", "b")):
            assert call("run", "engine", source, "-o", tmp_path / out).exit_code == 0
    assert (tmp_path / "a" / "one.png").read_bytes() == (tmp_path / "b" / "one.png").read_bytes()


@pytest.mark.usefixtures("fake_engine")
def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    film = make_film(tmp_path / "my film.mp4", 5)
    result = call("run", "engine", film.as_uri(), "-o", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["done"] == 5


def test_a_camera_that_sends_jpegs_stays_one_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.io.sources.live._FIRST_WAIT_S", 0.001)
    said: list[str] = []
    # The first connection is that which asks what it is.
    with serve(tmp_path) as server:
        server.connections = [1, 6, 6]
        found = find_sources(
            [server.url("live")], tmp_path / "out", folder=tmp_path, report=said.append
        )
        assert found.camera == server.url("live")
        source = LiveSource(found.camera, report=said.append, patience_s=0.05)
        shots = []
        with pytest.raises(DeviceLost, match="vanished"):
            shots.extend(source.shots(threading.Event()))
    assert source.reconnects == 1
    assert len(shots) >= 10


def test_a_playlist_that_goes_on_is_a_camera(tmp_path: Path) -> None:
    with serve(site(tmp_path / "site")) as server:
        for name in ("live.m3u8", "absent.mp4"):
            found = find_sources(
                [server.url(name)], tmp_path / "out", folder=tmp_path, report=lambda _: None
            )
            assert found.camera == server.url(name)


def test_a_playlist_of_a_server_opens_no_file_of_this_machine(tmp_path: Path) -> None:
    film = make_film(tmp_path / "own.ts", 24, bf="0", g="5")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "done.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{film}\n#EXT-X-ENDLIST\n"
    )
    with serve(tmp_path / "site") as server, pytest.raises(BadInput, match="read"):
        list(read_video(Address(server.url("done.m3u8"))))


# ---- secrets


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:secret@host/x", "rtsp://host/x"),
        ("rtsp://secret@host:554/x", "rtsp://host:554/x"),
        ("rtsp://user:se/cr?et#@host/x", "rtsp://host/x"),
        ("rtsp://user:a@secret@host/x", "rtsp://host/x"),
        ("rtsp://user:secret@[::1]:554/x", "rtsp://[::1]:554/x"),
        ("http://host/x?channel=1&token=secret", "http://host/x?***"),
        ("http://host/x?secret", "http://host/x?***"),
        ("http://host/x#secret", "http://host/x?***"),
        (
            "rtsp://host/user=admin_password=secret_channel=1.sdp",
            "rtsp://host/user=***",
        ),
        ("http://host/a@2x.png", "http://host/a@2x.png"),
        ("rtsp:/user:secret@host/x", "rtsp:/host/x"),
        ("RTSP://user:secret@host/x", "RTSP://host/x"),
        ("rtmp://host/live", "rtmp://host/live"),
        ("folder/a@b.mp4", "folder/a@b.mp4"),
        ("C:/films/a.mp4", "C:/films/a.mp4"),
    ],
)
def test_a_source_is_shown_without_its_secrets(source: str, shown: str) -> None:
    assert display_name(source) == shown
    assert str(Address(source)) == shown
    assert f"{Address(source)!r}" == f"Address({shown!r})"
    assert "secret" not in Address(source).stem


def flown(*arguments: object, expected: int, cwd: Path, **environment: str) -> str:
    """Everything that ``run`` with a fake engine writes: both outputs, names and contents of files."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_cli", "run", "engine", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "TMPDIR": str(cwd), "HOME": str(cwd), **environment},
    )
    written = done.stdout + done.stderr
    assert done.returncode == expected, written.decode()
    assert b"Traceback" not in written
    for path in cwd.rglob("*"):
        written += os.fsencode(path) + (path.read_bytes() if path.is_file() else b"")
    return written.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "url",
    [
        f"rtsp://{LOGIN}@127.0.0.1:9/x",
        f"http://{LOGIN}@127.0.0.1:9/x.mp4?token={SECRET}",
        f"tcp://127.0.0.1:9/?password={SECRET}",
        f"nonsense://{LOGIN}@127.0.0.1/x",
        f"rtsp:/{LOGIN}@127.0.0.1/x",
    ],
)
def test_a_camera_that_fails_tells_no_secret(tmp_path: Path, url: str) -> None:
    everything = flown(url, "-o", tmp_path / "out", "--json", expected=1, cwd=tmp_path)
    assert "error: " in everything
    assert SECRET not in everything
    assert "operator9" not in everything
    both = flown(url, "b.mp4", "-o", tmp_path / "out", expected=1, cwd=tmp_path)
    assert SECRET not in both


@pytest.mark.parametrize("name", ["plain.mp4", "one.jpg", "pages.tif"])
def test_a_file_behind_a_password_tells_no_secret(tmp_path: Path, name: str) -> None:
    with serve(site(tmp_path / "site"), login=LOGIN) as server:
        url = server.url(f"{name}?token={SECRET}", LOGIN)
        everything = flown(
            *(url, "-o", tmp_path / "out", "--json", "--jsonl", tmp_path / "copy"),
            expected=0,
            cwd=tmp_path,
        )
        assert any(SECRET in path for path in server.asked)
    assert SECRET not in everything
    assert "operator9" not in everything
    assert f"http://127.0.0.1:{server.port}/{name}?***" in everything


@pytest.mark.usefixtures("fake_engine", "impatient")
def test_a_camera_that_vanishes_tells_no_secret(tmp_path: Path) -> None:
    with serve(tmp_path, login=LOGIN) as server:
        server.connections = [1, 6, 6]
        url = server.url(f"live?token={SECRET}", LOGIN)
        result = call("run", "engine", url, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 4
    assert "vanished" in result.stderr
    assert "there again" in result.stderr
    assert json.loads(result.stdout)["done"] > 0
    stored = (tmp_path / "out" / "areas.jsonl").read_text()
    assert f"http://127.0.0.1:{server.port}/live?***" in stored
    for text in (result.stdout, result.stderr, stored, *map(str, tmp_path.rglob("*"))):
        assert SECRET not in text
        assert "operator9" not in text


@pytest.mark.usefixtures("fake_engine", "impatient")
def test_an_rtsp_camera_that_works_and_vanishes_tells_no_secret(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.ts", 100, g="5", bf="0", tune="zerolatency")
    with serve_rtsp(film.read_bytes(), login=LOGIN, plays=2) as server:
        place = f"127.0.0.1:{server.port}/x"
        url = f"rtsp://{LOGIN}@{place}?token={SECRET}"
        result = call("run", "engine", url, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 4
    report = json.loads(result.stdout)
    assert report["done"] > 0
    assert report["reconnects"] == 1
    assert f"error: rtsp://{place}?***: vanished" in result.stderr
    stored = (tmp_path / "out" / "areas.jsonl").read_text()
    for text in (result.stdout, result.stderr, stored, *map(str, tmp_path.rglob("*"))):
        assert SECRET not in text
        assert "operator9" not in text


def chain(error: BaseException | None) -> str:
    """All that an error and those it came of say."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {vars(error)} {getattr(error, 'filename', '')}\n"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize("where", ["camera", "film"])
def test_an_errors_chain_holds_no_secret(where: str) -> None:
    url = f"http://{LOGIN}@127.0.0.1:9/x.mp4?token={SECRET}"
    with pytest.raises(BadInput) as caught:
        list(read_live(url) if where == "camera" else read_video(Address(url)))
    told = chain(caught.value) + "".join(traceback.format_exception(caught.value))
    assert "127.0.0.1:9" in told
    assert SECRET not in told


# ---- calls home


def alone() -> list[str]:
    """A command that runs another without a network."""
    command = ["unshare", "-rn"]
    if shutil.which("unshare") and not subprocess.run([*command, "true"], check=False).returncode:
        return command
    return []


def strace(log: Path) -> list[str]:
    if not shutil.which("strace"):
        return []
    return ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(log)]


def own_home(home: Path) -> dict[str, str]:
    """The environment of a new user, on a machine that is no builder of tests."""
    left_out = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HOME": str(home)}


_REFUSING = """
import os, socket
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["ATTEMPTS"], "a") as log:
            log.write(f"{event} {arguments[-1]}\\n")
        raise OSError("no network")
import sys
sys.addaudithook(refuse)
"""


def test_local_files_need_no_network_and_leave_nothing_at_home(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """A new user's first ``build-engine`` and ``run``, in OpenVINO and in ONNX Runtime."""
    pytest.importorskip("openvino")
    home, hooks, attempts = tmp_path / "home", tmp_path / "hooks", tmp_path / "attempts"
    home.mkdir()
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_REFUSING)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    make_film(tmp_path / "b.mp4", 2)
    environment = own_home(home) | {
        "PYTHONPATH": f"{hooks}:{ROOT}",
        "ATTEMPTS": str(attempts),
        "OMP_NUM_THREADS": "1",
    }
    commands: list[tuple[object, ...]] = [("doctor",)]
    for name in ("a.ov.onnx", "a.ort.onnx"):
        sources = (tmp_path / "a.png", tmp_path / "b.mp4")
        commands += [
            ("build-engine", tiny_bundle, "-o", tmp_path / name),
            ("run", tmp_path / name, *sources, "-o", tmp_path / f"{name}.out"),
        ]
    for number, command in enumerate(commands):
        log = tmp_path / f"calls{number}"
        arguments = [sys.executable, "-c", MAIN, *map(str, command)]
        done = subprocess.run(
            [*alone(), *strace(log), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert not attempts.exists(), attempts.read_text()
        if log.exists():
            assert re.findall(r".*AF_INET.*", log.read_text()) == []
    kept = [path.relative_to(home).as_posix() for path in home.rglob("*")]
    assert {path for path in kept if "segclip-deploy" not in path} <= {".cache"}


def test_openvinos_telemetry_is_left_out_and_stays_for_others() -> None:
    code = (
        "import sys, threading\n"
        "from segclip_deploy._optional import require\n"
        "before = sys.modules.get('openvino_telemetry')\n"
        "require('openvino', why='this')\n"
        "print('openvino_telemetry' in sys.modules, threading.active_count())\n"
        "import openvino_telemetry\n"
        "print(openvino_telemetry.Telemetry.__name__)\n"
    )
    pytest.importorskip("openvino_telemetry")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "1", "Telemetry"]


_SESSION = """
import os, sys
from segclip_deploy._optional import require
require(sys.argv[1], why="this")
assert "ORT_DISABLE_TELEMETRY" not in os.environ
import numpy as np, onnx, onnxruntime
from onnx import helper
x, y = (helper.make_tensor_value_info(name, 1, [4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())
session.run(None, {"x": np.zeros(4, np.float32)})
"""


@pytest.mark.parametrize("package", ["onnxruntime", "onnxslim", "onnxscript"])
def test_onnx_runtime_keeps_and_sends_no_events(tmp_path: Path, package: str) -> None:
    """Also where another package loads it later."""
    pytest.importorskip(package)
    log = tmp_path / "calls"
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(
        [*strace(log), sys.executable, "-c", _SESSION, package],
        cwd=ROOT,
        env=own_home(home),
        check=True,
        timeout=120,
    )
    assert list(home.rglob("*")) == []
    assert not log.exists() or "AF_INET" not in log.read_text()


def test_onnx_runtimes_events_are_off_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    asked = []
    monkeypatch.setattr(ort, "disable_telemetry_events", lambda: asked.append(True))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")  # the user's own choice stays
    assert load("onnxruntime") is ort
    assert asked == [True]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_the_server_of_these_tests_asks_for_its_password(tmp_path: Path) -> None:
    Image.fromarray(textured(0)).save(tmp_path / "a.jpg")
    with serve(tmp_path, login=LOGIN) as server:
        assert isinstance(server, Server)
        result = find_sources(
            [server.url("a.jpg")], tmp_path / "out", folder=tmp_path, report=lambda _: None
        )
    assert result.camera == server.url("a.jpg")  # FFmpeg then says: 401
