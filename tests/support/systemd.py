"""A systemd of the test's own: a user's manager in namespaces of its own, where root may make them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_MANAGER = "/lib/systemd/systemd"
_NAMESPACE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
_BEGIN = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0
export XDG_RUNTIME_DIR=/run/user/0
SYSTEMD_UNIT_PATH="$0:" {manager} --user --log-target=console >"$0/manager.log" 2>&1 &
for _ in $(seq 100); do systemctl --user is-system-running >"$0/state" 2>&1 && break; sleep 0.1; done
"""


def with_systemd(units: Path, script: str) -> str:
    """What a script of bash prints that calls ``systemctl --user``; skips where there can be no manager.

    Args:
        units: the folder of the manager's units; its log is there afterwards.
        script: ends the manager with its own end.
    """
    if not (os.geteuid() == 0 and shutil.which("unshare") and Path(_MANAGER).exists()):
        pytest.skip("a systemd of its own needs root, unshare and systemd")
    if subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces are not permitted here")
    done = subprocess.run(
        [*_NAMESPACE, "bash", "-c", _BEGIN.format(manager=_MANAGER) + script, str(units)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if (units / "state").read_text().strip() not in ("running", "degraded"):
        pytest.skip(f"systemd does not start here: {(units / 'manager.log').read_text()[:500]}")
    assert done.returncode == 0, done.stderr
    return done.stdout
