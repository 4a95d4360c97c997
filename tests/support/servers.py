"""Servers on 127.0.0.1 for tests: files, and cameras over HTTP and RTSP, with a password or without."""

from __future__ import annotations

import base64
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from PIL import Image

_TYPES = {".jpg": "image/jpeg", ".tif": "image/tiff", ".mp4": "video/mp4"}


@dataclass
class Server:
    """A server that runs.

    Attributes:
        port: of 127.0.0.1.
        connections: how many frames each connection to /live gets, in turn; then none come.
        asked: paths that were asked for.
        frame_s: seconds between frames of /live.
        silent: while it is set, connections to /live stay and no frame comes.
        dead: while it is set, connections to /live end, and no other is answered.
    """

    port: int
    connections: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    frame_s: float = 0.0
    silent: threading.Event = field(default_factory=threading.Event)
    dead: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, login: str = "") -> str:
        return f"http://{login}{'@' if login else ''}127.0.0.1:{self.port}/{path}"


@contextmanager
def serve(folder: Path, *, login: str = "") -> Iterator[Server]:
    """Serve a folder's files with their lengths and ranges, and /live, a camera.

    Args:
        login: ``USER:PASSWORD`` that basic authentication asks for.
    """
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            server.asked.append(self.path)
            if login and self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/live":
                self._live()
            else:
                self._file(folder / path.lstrip("/"))

        def _file(self, file: Path) -> None:
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            given = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            first = int(given[0] or 0)
            if file.parent.name == "chunked":
                self._chunks(data)
                return
            self.send_response(206 if self.headers.get("Range") else 200)
            self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
            self.send_header("Accept-Ranges", "bytes")
            if self.headers.get("Range"):
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - first))
            self.end_headers()
            self.wfile.write(data[first:])

        def _chunks(self, data: bytes) -> None:
            """As a server sends what it makes or packs on the way: the length is not known."""
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for first in range(0, len(data), 4096):
                part = data[first : first + 4096]
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        def _live(self) -> None:
            if server.dead.is_set() or not server.connections:
                self.send_error(503)
                return
            count = server.connections.pop(0)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in range(count):
                time.sleep(server.frame_s)
                while server.silent.is_set():
                    time.sleep(0.02)
                if server.dead.is_set():
                    return
                data = BytesIO()
                Image.new("RGB", (64, 48), (20 * number % 256,) * 3).save(data, "JPEG")
                picture = data.getvalue()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n"
                self.wfile.write(head.encode() + b"\r\n" + picture + b"\r\n")

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the client has what it wanted
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        server = Server(served.server_address[1])
        with _running(served):
            yield server


@contextmanager
def serve_rtsp(stream: bytes, *, login: str, plays: int) -> Iterator[Server]:
    """A camera that sends MPEG-TS over RTP in its RTSP connection (RFC 2326), then hangs up.

    Args:
        stream: of MPEG-TS.
        login: ``USER:PASSWORD`` that basic authentication asks for.
        plays: connections that are answered; those after them are closed at once.
    """
    wanted = f"Authorization: Basic {base64.b64encode(login.encode()).decode()}"
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if len(server.connections) >= plays:
                return
            while lines := self._request():
                server.asked.append(lines[0])
                verb = lines[0].partition(" ")[0]
                count = next(line for line in lines if line.startswith("CSeq"))
                if wanted not in lines:
                    self._answer(
                        f'401 Unauthorized\r\n{count}\r\nWWW-Authenticate: Basic realm="a"'
                    )
                elif verb == "DESCRIBE":
                    length = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}"
                    self._answer(f"200 OK\r\n{count}\r\n{length}", sdp)
                elif verb == "SETUP":
                    way = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1"
                    self._answer(f"200 OK\r\n{count}\r\n{way}")
                else:
                    self._answer(
                        f"200 OK\r\n{count}\r\nSession: 1\r\nPublic: DESCRIBE, SETUP, PLAY"
                    )
                if verb == "PLAY":
                    server.connections.append(1)
                    self._play()
                    return

        def _request(self) -> list[str]:
            lines = []
            while line := self.rfile.readline().decode().strip():
                lines.append(line)
            return lines

        def _answer(self, head: str, body: str = "") -> None:
            self.wfile.write(f"RTSP/1.0 {head}\r\n\r\n{body}".encode())

        def _play(self) -> None:
            size = 7 * 188
            for number, start in enumerate(range(0, len(stream), size)):
                part = stream[start : start + size]
                rtp = struct.pack(">BBHII", 0x80, 33, number, 3600 * number, 1) + part
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as served:
        served.daemon_threads = True
        server = Server(served.server_address[1])
        with _running(served):
            yield server


@contextmanager
def _running(served: socketserver.BaseServer) -> Iterator[None]:
    """Answer in a thread while the block runs."""
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        served.shutdown()
        thread.join(10)
