"""Elements called as a Jetson's, around the processor's, and films through them: ``python -m … FILM DECODER``.

The stand-in for nvv4l2decoder takes H.264 only, as the real one takes not everything. Prints as JSON which
decoders the pipeline had, the format that reached the converter, and the frames; or the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.pixel_formats import PixelLayout, to_rgb
from segclip_deploy.runtime.io.sources import gstreamer_samples
from segclip_deploy.runtime.io.sources.gstreamer_decoders import _Plan
from segclip_deploy.runtime.io.sources.gstreamer_films import read_film
from segclip_deploy.runtime.io.sources.gstreamer_library import load_gstreamer


def register(gst: Any, name: str, around: str, takes: str) -> None:
    class StandIn(gst.Bin):
        __gtype_name__ = f"StandIn{name}"

        def __init__(self) -> None:
            super().__init__()
            inner = gst.ElementFactory.make(around)
            self.add(inner)
            for side in ("sink", "src"):
                self.add_pad(gst.GhostPad.new(side, inner.get_static_pad(side)))

    StandIn.set_metadata(name, "Codec/Decoder/Video", name, "tests")
    for side, way, caps in (("sink", "SINK", takes), ("src", "SRC", "video/x-raw")):
        direction, always = getattr(gst.PadDirection, way), gst.PadPresence.ALWAYS
        StandIn.add_pad_template(
            gst.PadTemplate.new(side, direction, always, gst.Caps.from_string(caps))
        )
    assert gst.Element.register(None, name, 0, StandIn.__gtype__)


def main() -> None:
    gst = load_gstreamer().Gst
    register(gst, "nvv4l2decoder", "avdec_h264", "video/x-h264")
    register(gst, "nvvidconv", "videoconvert", "video/x-raw")
    chosen, formats = [], set()
    choose = _Plan._choose

    def noted(self: _Plan, caps: Any) -> Any:
        found = choose(self, caps)
        chosen.append(found and found.get_name())
        return found

    def watched(data: Any, layout: PixelLayout) -> Any:
        formats.add(layout.format.value)
        return to_rgb(data, layout)

    _Plan._choose = noted  # type: ignore[method-assign]
    gstreamer_samples.to_rgb = watched  # type: ignore[attr-defined]
    told: dict[str, Any] = {"error": None, "frames": 0}
    try:
        for frame in read_film(Path(sys.argv[1]), sys.argv[2], None):  # type: ignore[arg-type]
            told["frames"] += 1
            told["mean"] = float(frame.pixels.mean())
    except BadInput as error:
        told["error"] = str(error)
    print(json.dumps({**told, "decoders": chosen, "formats": sorted(formats)}))


if __name__ == "__main__":
    main()
