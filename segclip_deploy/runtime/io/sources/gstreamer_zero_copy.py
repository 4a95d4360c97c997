"""What PyGObject cannot do without copies of frames: it copies what it maps, and answers no queries."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from segclip_deploy.errors import BadInput

__all__ = ["mapped", "take_as_decoded"]

_MAP_READ = 1  # GST_MAP_READ
_QUERY_DOWNSTREAM = 1 << 9  # GST_PAD_PROBE_TYPE_QUERY_DOWNSTREAM
_GO_ON, _HANDLED = 1, 4  # GST_PAD_PROBE_OK, GST_PAD_PROBE_HANDLED

_Probe = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class _MapInfo(ctypes.Structure):
    """``GstMapInfo``."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("reserved", ctypes.c_void_p * 4),
    )


class _VideoInfo(ctypes.Structure):
    """The beginning of ``GstVideoInfo``, and room for the rest."""

    _fields_ = (
        ("format", ctypes.c_void_p),
        ("interlace_mode", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("size", ctypes.c_size_t),
        ("rest", ctypes.c_byte * 512),
    )


@contextmanager
def mapped(buffer: Any) -> Iterator[Any]:
    """The bytes of a ``Gst.Buffer`` where they are, until the body has run.

    Raises:
        BadInput: they cannot be read by the processor.
    """
    core, _ = _libraries()
    info = _MapInfo()
    place = hash(buffer)  # PyGObject: the address of what it wraps
    if not core.gst_buffer_map(place, ctypes.byref(info), _MAP_READ):
        raise BadInput("the processor cannot read the memory of its frames")
    try:
        yield (ctypes.c_ubyte * info.size).from_address(info.data)
    finally:
        core.gst_buffer_unmap(place, ctypes.byref(info))


def take_as_decoded(pad: Any) -> None:
    """Let what is before a ``Gst.Pad`` give its buffers as they are, with padded rows.

    A decoder pads its rows. It copies each frame unless the answer to its allocation query names
    a pool, and says that padding is understood. An appsink says neither.
    """
    core, _ = _libraries()
    core.gst_pad_add_probe(hash(pad), _QUERY_DOWNSTREAM, _ANSWER, None, None)


def _understand_padding(_pad: int, info: int, _data: int) -> int:
    core, video = _libraries()
    query = core.gst_pad_probe_info_get_query(info)
    structure = core.gst_query_get_structure(query)
    if not structure or not core.gst_structure_has_name(structure, b"GstQueryAllocation"):
        return _GO_ON
    caps = ctypes.c_void_p()
    core.gst_query_parse_allocation(query, ctypes.byref(caps), None)
    described = _VideoInfo()
    if not caps or not video.gst_video_info_from_caps(ctypes.byref(described), caps):
        return _GO_ON
    pool = video.gst_video_buffer_pool_new()
    config = core.gst_buffer_pool_get_config(pool)
    core.gst_buffer_pool_config_set_params(config, caps, described.size, 0, 0)
    core.gst_buffer_pool_set_config(pool, config)
    core.gst_query_add_allocation_pool(query, pool, described.size, 0, 0)
    core.gst_object_unref(pool)
    core.gst_query_add_allocation_meta(query, video.gst_video_meta_api_get_type(), None)
    return _HANDLED


_ANSWER = _Probe(_understand_padding)  # lives as long as any pad that may call it


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """GStreamer's core and its part for video, which PyGObject has loaded already."""
    core, video = (ctypes.CDLL(f"lib{name}-1.0.so.0") for name in ("gstreamer", "gstvideo"))
    address, number, size = ctypes.c_void_p, ctypes.c_uint, ctypes.c_size_t
    signatures: tuple[tuple[Any, Any, list[Any]], ...] = (
        (core.gst_buffer_map, ctypes.c_int, [address, address, ctypes.c_int]),
        (core.gst_buffer_unmap, None, [address, address]),
        (core.gst_pad_add_probe, ctypes.c_ulong, [address, number, _Probe, address, address]),
        (core.gst_pad_probe_info_get_query, address, [address]),
        (core.gst_query_get_structure, address, [address]),
        (core.gst_structure_has_name, ctypes.c_int, [address, ctypes.c_char_p]),
        (core.gst_query_parse_allocation, None, [address, address, address]),
        (core.gst_buffer_pool_get_config, address, [address]),
        (core.gst_buffer_pool_config_set_params, None, [address, address, number, number, number]),
        (core.gst_buffer_pool_set_config, ctypes.c_int, [address, address]),
        (video.gst_video_info_from_caps, ctypes.c_int, [address, address]),
        (core.gst_query_add_allocation_pool, None, [address, address, number, number, number]),
        (core.gst_query_add_allocation_meta, None, [address, size, address]),
        (core.gst_object_unref, None, [address]),
        (video.gst_video_buffer_pool_new, address, []),
        (video.gst_video_meta_api_get_type, size, []),
    )
    for function, gives, takes in signatures:
        function.restype, function.argtypes = gives, takes
    return core, video
