"""The unit in a real systemd: notified, killed, hung, without its camera, stopped."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from segclip_deploy import api
from tests.support.servers import Server, serve
from tests.support.services import check_pictures, stored_lines
from tests.support.systemd import with_systemd

SCRIPT = """
unit=segclip-deploy
shown() { systemctl --user show -P "$1" $unit; }
reach() { for _ in $(seq ${3:-300}); do [ "$(shown $1)" = "$2" ] && return; sleep 0.1; done; echo "no $1=$2: $(shown $1)"; }
running() { reach ActiveState active; }
systemctl --user start $unit; echo "started $(shown ActiveState) $(shown SubState)"
shown StatusText
kill -KILL $(shown MainPID); reach NRestarts 1; running; echo "killed, again $(shown ActiveState)"
kill -STOP $(shown MainPID); reach NRestarts 2; running; echo "hung, again $(shown ActiveState)"
echo off >"$0/phase"; sleep 0.5
kill -KILL $(shown MainPID); reach ExecMainStatus 4 900; echo "no camera: $(shown ExecMainStatus)"
echo on >"$0/phase"; running; echo "camera, again $(shown ActiveState)"
systemctl --user stop $unit; echo "stopped $(shown ActiveState)"
"""


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.faults
def test_a_real_systemd_keeps_the_service_up(tiny_bundle: Path, tmp_path: Path) -> None:
    units, out = tmp_path / "units", tmp_path / "100 % out"
    units.mkdir()
    out.mkdir()
    with serve(tmp_path) as camera:
        camera.frame_s, camera.connections = 0.02, [10**6] * 100
        unit = api.service(tiny_bundle, camera.url("live"), out=out, keep=10**8)
        (units / unit.path.name).write_text(unit.text.replace("WatchdogSec=90", "WatchdogSec=3"))
        threading.Thread(target=switch, args=(camera, units / "phase"), daemon=True).start()
        told = with_systemd(units, SCRIPT).splitlines()
    assert told[0] == "started active running"
    assert " ms old; " in told[1]
    assert told[2:] == [
        "killed, again active",
        "hung, again active",
        "no camera: 4",
        "camera, again active",
        "stopped inactive",
    ]
    numbers = [line["index"] for line in stored_lines(out)]
    assert numbers == sorted(set(numbers))
    assert {line["labels"] for line in stored_lines(out)} <= set(check_pictures(out))


def switch(camera: Server, phase: Path) -> None:
    """Take the camera away and bring it back, as the script says."""
    for word in ("off", "on"):
        while not phase.exists() or phase.read_text().strip() != word:
            time.sleep(0.05)
        (camera.dead.clear if word == "on" else camera.dead.set)()
