"""An RTSP camera as a process of its own: ``python -m tests.support.rtsp_server PORT USER PASSWORD``.

It shows a ball in H.264, 320 × 240, 30 frames a second, at /ball, and says READY once it listens.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

LAUNCH = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 config-interval=-1 )"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def rtsp_server(port: int, user: str = "", password: str = "") -> Iterator[str]:
    """The URL of a camera, until the body has run; then it is killed."""
    command = [sys.executable, "-m", "tests.support.rtsp_server", str(port), user, password]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        yield (
            f"rtsp://{user}:{password}@127.0.0.1:{port}/ball"
            if user
            else (f"rtsp://127.0.0.1:{port}/ball")
        )
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    import gi

    for name in ("Gst", "GstRtsp", "GstRtspServer"):
        gi.require_version(name, "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

    port, user, password = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(LAUNCH)
    factory.set_shared(True)
    if user:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        role = Gst.Structure.new_empty("viewer")
        role.set_value("media.factory.access", True)
        role.set_value("media.factory.construct", True)
        factory.add_role_from_structure(role)
    server.get_mount_points().add_factory("/ball", factory)
    assert server.attach(None)
    assert GstRtsp
    print("READY", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
