"""What of the onboard interfaces is not installed here, so that their tests are skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

__all__ = ["OBSTACLES"]


@cache
def _gstreamer() -> str | None:
    """Why tests marked ``gstreamer`` cannot run."""
    from segclip_deploy.errors import MissingDependency
    from segclip_deploy.runtime.io.sources.gstreamer_library import load_gstreamer

    try:
        gst = load_gstreamer().Gst
        import gi

        gi.require_version("GstRtspServer", "1.0")
    except (MissingDependency, ValueError):
        return "GStreamer for Python is not installed"
    needed = ("videotestsrc", "rtspsrc", "parsebin", "h265parse", "x264enc", "avdec_h264")
    lacking = [name for name in needed if gst.ElementFactory.find(name) is None]
    return f"GStreamer has no {', '.join(lacking)}" if lacking else None


def _ros() -> str | None:
    """Why tests marked ``ros`` cannot run."""
    return None if importlib.util.find_spec("rclpy") else "ROS 2 (rclpy) is not installed"


OBSTACLES: dict[str, tuple[Callable[[], str | None], str]] = {
    "gstreamer": (_gstreamer, "make gstreamer"),
    "ros": (_ros, "docs/how-to/ros.md"),
}
"""By marker: what is in the way of its tests, if anything, and what removes it."""
