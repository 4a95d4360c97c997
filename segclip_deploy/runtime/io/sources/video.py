"""Videos and cameras, read through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import Address
from segclip_deploy.runtime.io.sources.damage import Damage
from segclip_deploy.runtime.io.sources.rotation import rotation_of

__all__ = [
    "MOST_FRAME_PIXELS",
    "VideoFrame",
    "count_frames",
    "creation_time",
    "has_many_frames",
    "read_live",
    "read_video",
]

_OPEN_S, _READ_S = 10.0, 5.0  # a camera that is silent for so long has vanished

# What FFmpeg may take a file for. Not playlists, lists of files, subtitles or text: these open
# other files, or draw letters.
_FILM_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,mjpeg,mpjpeg,"
    "flv,asf,ogg,mxf,ivf,nut,yuv4mpegpipe,dv"
)
_NETWORK_FORMATS = f"{_FILM_FORMATS},hls,rtsp,sdp,rtp,live_flv"
# Not file: a playlist of a server may not name the files of this machine.
_NETWORK_PROTOCOLS = (
    "http,https,httpproxy,tcp,tls,udp,rtp,srtp,rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,srt,crypto"
)
_AS_BYTES = {"metadata_errors": "backslashreplace"}  # titles are of any coding, or damaged
MOST_FRAME_PIXELS = 89_478_485
"""That a frame may have: as many as an image."""
_FRUITLESS = 20  # reads in a row that fail, after which a damaged film has ended


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, turned as players show it.
        seconds: its time.
        damaged: from a damaged packet on, up to the next key frame.
        taken: ``time.perf_counter()`` when a camera took it; None where it does not say.
        dropped: frames of a camera since the one before it that nobody had time to read.
    """

    pixels: NDArray[np.uint8]
    seconds: float | None
    damaged: bool
    taken: float | None = None
    dropped: int = 0


def count_frames(path: Path) -> int | None:
    """How many frames a video's header promises; None where it does not say or cannot be read."""
    av = _av()
    try:
        with _open_film(path) as container:
            return container.streams.video[0].frames or None
    except (av.error.FFmpegError, IndexError, BadInput):
        return None


def creation_time(path: Path) -> datetime | None:
    """When a video was made, by its container, in UTC and to the second; None where it does not say."""
    av = _av()
    try:
        with _open_film(path) as container:
            said = container.metadata.get("creation_time", "")
            time = datetime.fromisoformat(said.replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except (av.error.FFmpegError, ValueError, BadInput):
        return None
    # Without a clock, cameras write the zero of theirs: 1904, 1970 or 1980.
    known = time.tzinfo is not None and time.year > 1980
    return time.astimezone(timezone.utc) if known else None


def has_many_frames(path: Path) -> bool:
    """Whether more than one picture is in a file that begins as a JPEG."""
    av = _av()
    try:
        with _open_film(path) as container:
            packets = container.demux(container.streams.video[0])
            return sum(packet.size > 0 for packet, _ in zip(packets, range(2), strict=False)) > 1
    except (av.error.FFmpegError, IndexError, BadInput):
        return False


def read_video(
    source: Path | Address, *, report: Callable[[str], None] = lambda _: None
) -> Iterator[VideoFrame]:
    """Every frame of a video that can be decoded.

    Damage costs the frames that nothing can be decoded of; the others follow, and those up to the
    next key frame are marked. A video that begins between key frames begins with the first.

    Args:
        source: a file, or where a server has one.
        report: is told in a line where a video does not begin at its start, or is turned by an
            odd angle.

    Raises:
        BadInput: not a video, shorter than its header says, or with packets that nothing could be
            decoded of; after all frames that could be.
    """
    av = _av()
    damage = Damage()
    reason = None
    lasts, promised, alone = 0.0, 0, False
    try:
        with _open_film(source) as container:
            stream = _video_stream(container, source)
            damage = Damage(stream.codec_context.name)
            lasts = (container.duration or 0) / av.time_base
            alone, promised = len(container.streams) == 1, stream.frames

            def tell(note: str) -> None:
                report(f"{source}: {note}")

            yield from _frames(container, stream, damage, patience=_FRUITLESS, tell=tell)
    except av.error.FFmpegError as error:
        reason = error.strerror
    # Raised out here, since FFmpeg's errors name the source with its password.
    if reason is not None:
        after = f" after {damage.frames} frames" if damage.frames else ""
        raise BadInput(f"not a video that can be read{after} ({reason})", where=source)
    if not damage.frames:
        raise BadInput("no frame in it that can be read", where=source)
    missing = damage.missing(lasts, promised, alone=alone)
    if missing:
        raise BadInput(missing, where=source)


def read_live(url: str) -> Iterator[VideoFrame]:
    """Frames of a camera as they come, from its first key frame on, until it ends.

    Damage is met as in a film. Only after a packet that gave no frame, a few frames are held back,
    until those before them in the stream have come.

    Args:
        url: ``/dev/video0``, ``rtsp://…``, or any other that FFmpeg opens.

    Raises:
        BadInput: it cannot be opened, or has stopped to answer.
    """
    av = _av()
    device = "://" not in url
    reason = None
    try:
        if device:
            opened = av.open(url, format="v4l2")
        else:
            opened = av.open(
                url,
                container_options=_network_options(url),
                timeout=(_OPEN_S, _READ_S),
                **_AS_BYTES,
            )
        with opened as container:
            stream = _video_stream(container, Address(url))
            yield from _frames(container, stream, Damage(stream.codec_context.name), patience=0)
    except av.error.FFmpegError as error:
        reason = error.strerror
    if reason is not None:  # raised out here, since FFmpeg's errors name the URL
        raise BadInput(f"no picture ({reason})", where=Address(url))


def _frames(
    container: Any,
    stream: Any,
    damage: Damage,
    *,
    patience: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[VideoFrame]:
    """Frames that can be decoded, as players show them.

    Args:
        container, stream: of PyAV, opened.
        damage: follows what is decoded.
        patience: how often in a row reading may fail; a camera that fails is opened anew instead.
        tell: is told of a late start, and of an odd angle.

    Raises:
        FFmpegError: reading fails, and goes on failing.
    """
    # Slices in parallel hide damage from the decoder; frames in parallel lose, with one that
    # cannot be decoded, others. Decoding runs beside the inference as it is.
    stream.thread_type = "NONE"
    stream.codec_context.copy_opaque = True
    rotation = None
    for frame, damaged in damage.settle(_decode(container, stream, damage, patience)):
        if rotation is None:
            rotation = rotation_of(frame)
            for note in filter(None, (damage.late_start(frame), rotation.note)):
                tell(note)
        yield VideoFrame(rotation.apply(frame.to_ndarray(format="rgb24")), frame.time, damaged)


def _decode(container: Any, stream: Any, damage: Damage, patience: int) -> Iterator[Any]:
    """Frames of FFmpeg, in the order they are shown in."""
    errors = _av().error
    fruitless = 0  # reads in a row that failed
    while True:
        try:
            for packet in container.demux(stream):
                # A stream of JPEGs has no end that FFmpeg knows, and stops with an error.
                if fruitless and (packet.size or container.format.name != "mpjpeg"):
                    damage.lose(damage.packets)
                fruitless = 0
                damage.send(packet)
                try:
                    frames = stream.decode(packet)
                except errors.FFmpegError:
                    damage.lose(damage.packets - 1)
                else:
                    yield from frames
        except errors.FFmpegError:
            fruitless += 1
            if fruitless > patience or not damage.packets:
                raise
        else:
            return


@contextmanager
def _open_film(source: Path | Address) -> Iterator[Any]:
    """Open what ends, as a film only."""
    if isinstance(source, Address):
        options = {"reconnect": "1", "reconnect_delay_max": "4", **_network_options(source.url)}
        patience = (_OPEN_S, 2 * _READ_S)
        with _av().open(
            source.url, container_options=options, timeout=patience, **_AS_BYTES
        ) as container:
            yield container
        return
    options = {"format_whitelist": _FILM_FORMATS, "protocol_whitelist": "none"}
    try:
        stream = source.open("rb")
    except OSError as error:
        raise BadInput(f"not readable ({error.strerror})", where=source) from error
    nameless = _Nameless(stream)
    with stream, _av().open(nameless, container_options=options, **_AS_BYTES) as container:
        yield container


class _Nameless:
    """A file without its name, which FFmpeg would believe more than the content."""

    def __init__(self, stream: BufferedReader) -> None:
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell


def _network_options(url: str) -> dict[str, str]:
    allowed = {"format_whitelist": _NETWORK_FORMATS, "protocol_whitelist": _NETWORK_PROTOCOLS}
    return allowed | ({"rtsp_transport": "tcp"} if url.startswith("rtsp") else {})


def _av() -> Any:
    return require("av", why="video")


def _video_stream(container: Any, where: object) -> Any:
    for stream in container.streams.video:
        if stream.codec_context is not None:  # of a codec that this FFmpeg knows
            if stream.width * stream.height > MOST_FRAME_PIXELS:
                raise BadInput(f"frames of over {MOST_FRAME_PIXELS} pixels", where=where)
            stream.codec_context.options = {"max_pixels": str(MOST_FRAME_PIXELS)}  # of later ones
            return stream
    raise BadInput("no video in it that can be decoded", where=where)
