"""GStreamer itself, and which package an element comes with."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from segclip_deploy._optional import install_command, load, require
from segclip_deploy.errors import MissingDependency, command

__all__ = ["PACKAGES", "GStreamer", "gstreamer_version", "install_elements", "load_gstreamer"]

_RUNTIME = (
    "gir1.2-gst-plugins-base-1.0",  # depends on gir1.2-gstreamer-1.0
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-libav",
)
_TO_BUILD = ("libgirepository1.0-dev", "libcairo2-dev", "pkg-config", "gcc", "python3-dev")
_JETPACK = "it comes with JetPack, package nvidia-l4t-gstreamer"
_OF_JETPACK = ("nvargus", "nvv4l2", "nvvidconv", "nvjpeg", "nvcompositor", "nvdrm", "nvegl")
_APT = ("sudo", "apt-get", "install")

PACKAGES = {
    "gstreamer1.0-plugins-base": (
        "appsink appsrc compositor decodebin decodebin3 giosrc oggdemux parsebin playbin playbin3 "
        "rawvideoparse tcpclientsrc tcpserversrc theoradec uridecodebin uridecodebin3 urisourcebin "
        "videoconvert videoconvertscale videorate videoscale videotestsrc"
    ),
    "gstreamer1.0-plugins-good": (
        "aspectratiocrop avidemux deinterlace dvdec flvdemux imagefreeze imagesequencesrc jpegdec "
        "matroskademux multifilesrc multipartdemux pngdec qtdemux rtpbin rtph263depay rtph264depay "
        "rtph265depay rtpjitterbuffer rtpjpegdepay rtpmp2tdepay rtpmp4vdepay rtpvp8depay "
        "rtpvp9depay rtpvrawdepay rtspsrc souphttpsrc splitfilesrc splitmuxsrc udpsrc v4l2src "
        "videobalance videobox videocrop videoflip videomixer vp8dec vp9dec ximagesrc"
    ),
    "gstreamer1.0-plugins-bad": (
        "av1dec av1parse autovideoconvert curlhttpsrc dashdemux decklinkvideosrc h263parse "
        "h264parse h265parse hlsdemux interlace jpegparse libde265dec mpeg4videoparse mpegpsdemux "
        "mpegvideoparse openh264dec rtmp2src rtmpsrc rtpsrc sdpsrc shmsrc srtsrc tsdemux tsparse "
        "videoparse vp9parse webrtcbin y4mdec"
    ),
    "gstreamer1.0-plugins-ugly": "asfdemux mpeg2dec x264enc",
    "gstreamer1.0-libav": "avdec_h264 avdec_h265 avdec_mjpeg avdec_mpeg4 avdec_vp8 avdec_vp9",
    "gstreamer1.0-libcamera": "libcamerasrc",
}
"""Debian's packages, and those of their elements that read, decode or change video."""


class GStreamer(NamedTuple):
    """The modules that PyGObject makes of GStreamer's libraries, and what they raise."""

    Gst: Any
    GstApp: Any
    GstVideo: Any
    Error: type[Exception]


def load_gstreamer() -> GStreamer:
    """Import and start GStreamer, which keeps a list of its plugins in the user's cache directory.

    Raises:
        MissingDependency: PyGObject, or what it needs of GStreamer, is not installed.
    """
    modules = _import_gstreamer()
    modules.Gst.init(None)
    return modules


def gstreamer_version() -> str:
    """Of the GStreamer that is here, which is not started.

    Raises:
        MissingDependency: as ``load_gstreamer``.
    """
    return ".".join(map(str, _import_gstreamer().Gst.version()[:3]))


def _import_gstreamer() -> GStreamer:
    try:
        gi = require("gi", why="a GStreamer source", extra="gstreamer")
    except MissingDependency as error:
        raise MissingDependency(error.what, fix=_install_pygobject()) from error
    _keep_unwinder()
    try:
        for name in ("Gst", "GstApp", "GstVideo"):
            gi.require_version(name, "1.0")
        gst, app, video, glib = (
            load(f"gi.repository.{name}") for name in ("Gst", "GstApp", "GstVideo", "GLib")
        )
    except (ValueError, ImportError) as error:  # a namespace is not there
        raise MissingDependency(
            "a GStreamer source needs GStreamer's descriptions for Python, which are not installed",
            fix=command(*_APT, *_RUNTIME),
        ) from error
    return GStreamer(gst, app, video, glib.Error)


def _keep_unwinder() -> None:
    """Let C++ go on to throw exceptions through GCC's own library.

    PyGObject loads GStreamer for all to see, and with it libunwind, which has functions of the same names as libgcc_s.
    A C++ library that finds those, as OpenVINO's does, ends the process at its first exception. What is loaded first is found first.
    """
    with suppress(OSError):  # a system without it has nothing to mix up
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


def install_elements(elements: Sequence[str]) -> str:
    """What brings elements that are missing: Debian's packages, or JetPack."""
    packages, notes = [], []
    for element in elements:
        package = next((name for name, has in PACKAGES.items() if element in has.split()), None)
        if package is None and element.startswith("avdec_"):
            package = "gstreamer1.0-libav"
        if package is not None:
            packages.append(package)
        elif element.startswith(_OF_JETPACK):
            notes.append(_JETPACK)
        else:
            notes.append(f"look for its package: {command('apt-cache', 'search', 'gstreamer1.0')}")
    if packages:
        notes.insert(0, command(*_APT, *dict.fromkeys(packages)))
    return "; ".join(dict.fromkeys(notes))


def _install_pygobject() -> str:
    """Debian's package where this Python looks into Debian's folder; otherwise it has to be built."""
    if any(place.endswith("dist-packages") for place in sys.path):
        return command(*_APT, "python3-gi", *_RUNTIME)
    return f"{command(*_APT, *_TO_BUILD, *_RUNTIME)} && {install_command('gstreamer')}"
