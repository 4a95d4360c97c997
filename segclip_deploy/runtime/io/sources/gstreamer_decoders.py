"""Films and RTSP cameras through a decoder of the user's choice (``--decoder``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import Address
from segclip_deploy.runtime.io.sources.gstreamer_library import GStreamer
from segclip_deploy.runtime.io.sources.gstreamer_pipeline import SINK, Told
from segclip_deploy.runtime.io.sources.gstreamer_problems import has, install_decoders, lacking

__all__ = ["Decoder", "decoding_pipeline"]

Decoder = Literal["nv", "sw", "auto"]
"""Jetson's decoder, the processor, or the first of them that is there."""

_NV = "nvv4l2decoder"
_TCP = 4  # GST_RTSP_LOWER_TRANS_TCP, as PyAV is told to
_HARDWARE = (
    "nv",
    "v4l2",
    "va",
    "omx",
    "qsv",
    "msdk",
    "d3d",
)  # Decoders of these do not say so always
# nvvidconv makes RGB of it, which knows the colours of the decoder's frames, and brings it to the CPU.
_TAILS = {True: "nvvidconv ! video/x-raw,format=BGRx", False: "videoconvert"}


def decoding_pipeline(source: Path | Address, decoder: Decoder) -> Callable[[GStreamer, Told], Any]:
    """What makes the pipeline of a film, or of an RTSP camera, whose first video is decoded.

    videoconvert passes on what is read here; it converts what is not, such as frames of 10 bits.
    The function that is returned raises BadInput where the decoder is not here.
    """

    def build(modules: GStreamer, told: Told) -> Any:
        by_nv = decoder != "sw" and has(modules, _NV)
        if decoder == "nv" and not by_nv:
            raise lacking([_NV], source)
        plan = _Plan(modules, told, source, by_nv=by_nv, only_nv=decoder == "nv")
        return plan.pipeline

    return build


class _Plan:
    """Links the elements of a pipeline as its streams become known."""

    def __init__(
        self,
        modules: GStreamer,
        told: Told,
        source: Path | Address,
        *,
        by_nv: bool,
        only_nv: bool,
    ) -> None:
        gst = self._gst = modules.Gst
        self._modules, self._told, self._source = modules, told, source
        self._by_nv, self._only_nv, self._linked = by_nv, only_nv, False
        self.pipeline = gst.Pipeline.new(None)
        self._tail = gst.parse_bin_from_description(f"{_TAILS[by_nv]} ! {SINK}", True)
        self._parser = self._make("parsebin")
        self._parser.connect("pad-added", self._decode)
        for element in (self._parser, self._tail):
            self.pipeline.add(element)
        if isinstance(source, Path):
            reader = self._make("filesrc", location=str(source))
            self.pipeline.add(reader)
            reader.link(self._parser)
        else:
            # Over TCP nothing comes late or in another order, so nothing need wait for it.
            reader = self._make("rtspsrc", location=source.url, protocols=_TCP, latency=0)
            reader.connect("pad-added", self._parse)
            self.pipeline.add(reader)

    def _make(self, name: str, **properties: Any) -> Any:
        element = self._gst.ElementFactory.make(name, None)
        if element is None:
            raise lacking([name], self._source)
        for key, value in properties.items():
            element.set_property(key, value)
        return element

    def _parse(self, _reader: Any, pad: Any) -> None:
        """The first video of a camera to the parser."""
        target = self._parser.get_static_pad("sink")
        caps = pad.get_current_caps() or pad.query_caps(None)
        if caps.get_structure(0).get_string("media") == "video" and not target.is_linked():
            pad.link(target)

    def _decode(self, _parser: Any, pad: Any) -> None:
        """The first video to a decoder, and that to the end of the pipeline."""
        caps = pad.get_current_caps() or pad.query_caps(None)
        kind = caps.get_structure(0).get_name()
        if self._linked or not kind.startswith(("video/", "image/")):
            self._ignore(pad)
            return
        self._linked = True
        factory = self._choose(caps)
        if factory is None:
            self._told.tell(
                BadInput(
                    f"{_NV} does not decode {kind}"
                    if self._only_nv
                    else f"GStreamer has no decoder for {kind}",
                    where=self._source,
                    fix="--decoder sw" if self._only_nv else install_decoders(),
                )
            )
            return
        decoder = factory.create(None)
        self.pipeline.add(decoder)
        decoder.link(self._tail)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))

    def _ignore(self, pad: Any) -> None:
        """Sound, and all but the first video: taken, or the demuxer would call the film broken."""
        self._told.alone = False
        sink = self._make("fakesink", sync=False)
        sink.set_property("async", False)
        self.pipeline.add(sink)
        sink.sync_state_with_parent()
        pad.link(sink.get_static_pad("sink"))

    def _choose(self, caps: Any) -> Any:
        """The decoder of the highest rank that takes a stream, of the kind that is wanted."""
        registry = self._gst.ElementFactory
        if self._by_nv:
            nv = registry.find(_NV)
            if self._only_nv or nv.can_sink_any_caps(caps):
                return nv if nv.can_sink_any_caps(caps) else None
        kinds = self._gst.ELEMENT_FACTORY_TYPE_DECODER
        known = registry.list_get_elements(kinds, self._gst.Rank.MARGINAL)
        fit = registry.list_filter(known, caps, self._gst.PadDirection.SINK, False)
        plain = [one for one in fit if not one.get_name().startswith(_HARDWARE)]
        return max(plain, key=lambda one: one.get_rank(), default=None)
