"""What ``csi:``, ``usb:`` and ``gst:`` stand for, and what of a pipeline may be printed."""

from __future__ import annotations

import sys

import pytest

from segclip_deploy._optional import install_command
from segclip_deploy.errors import BadInput, MissingDependency
from segclip_deploy.runtime.formats.address import display_name, hide_secrets
from segclip_deploy.runtime.io.sources.gstreamer_presets import is_pipeline, pipeline_text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "csi:1",
            'nvarguscamerasrc sensor-id=1 ! capsfilter caps="video/x-raw(memory:NVMM)" ! nvvidconv ! video/x-raw,format=BGRx',
        ),
        (
            "csi:0?width=1920&height=1080&fps=30&flip=2",
            'nvarguscamerasrc sensor-id=0 ! capsfilter caps="video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1" ! nvvidconv flip-method=2 ! video/x-raw,format=BGRx',
        ),
        (
            "usb:2?width=1280&fps=30000/1001",
            'v4l2src device=/dev/video2 ! capsfilter caps="video/x-raw,width=1280,framerate=30000/1001;image/jpeg,width=1280,framerate=30000/1001" ! decodebin ! videoconvert',
        ),
        ("gst: videotestsrc ! queue ! ", "videotestsrc ! queue"),
    ],
)
def test_a_source_stands_for_a_pipeline(source: str, text: str) -> None:
    assert is_pipeline(source)
    assert pipeline_text(source) == text


@pytest.mark.gstreamer
@pytest.mark.parametrize(
    ("source", "kinds"),
    [("csi:0?width=640&height=480&fps=30", 1), ("usb:0?width=640&height=480&fps=30", 2)],
)
def test_what_is_asked_of_a_camera_is_understood_by_gstreamer(source: str, kinds: int) -> None:
    from segclip_deploy.runtime.io.sources.gstreamer_library import load_gstreamer

    caps = load_gstreamer().Gst.Caps.from_string(pipeline_text(source).split('"')[1])
    assert caps.get_size() == kinds
    for number in range(kinds):
        wanted = caps.get_structure(number)
        assert [wanted.get_int(side)[1] for side in ("width", "height")] == [640, 480]
        assert wanted.get_fraction("framerate")[1:] == (30, 1)
    assert caps.get_features(0).to_string() == (
        "memory:NVMM" if kinds == 1 else "memory:SystemMemory"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gst: ", "no pipeline after gst:"),
        ("csi:", "the camera's number is missing; as in csi:0"),
        ("usb:/dev/video0", "the camera's number is missing; as in usb:0"),
        ("csi:0?flip=180", "flip='180' is not 0 to 7"),
        ("csi:0?fps=0", "fps='0' is not a rate, as 30 or 30000/1001"),
        ("csi:0?width=", "width='' is not pixels"),
        ("usb:0?flip=2", "usb: has no option 'flip'; it has width, height, fps"),
        ("csi:0?width=9 ! fakesink", "width='9 ! fakesink' is not pixels"),
    ],
)
def test_a_source_that_stands_for_none_is_refused(source: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        pipeline_text(source)
    assert said in str(caught.value)


def test_other_sources_are_no_pipelines() -> None:
    assert not any(map(is_pipeline, ("rtsp://host/x", "/dev/video0", "gst.mp4", "csi/0.png")))


@pytest.mark.parametrize(
    ("places", "remedy"),
    [
        (
            ["/usr/lib/python3/dist-packages"],
            "sudo apt-get install python3-gi gir1.2-gst-plugins-base-1.0",
        ),
        (["/home/me/venv/lib/python3.10/site-packages"], f"&& {install_command('gstreamer')}"),
    ],
)
def test_without_pygobject_the_command_that_brings_it_is_said(
    monkeypatch: pytest.MonkeyPatch, places: list[str], remedy: str
) -> None:
    """Debian's package only where this Python would find it."""
    from segclip_deploy.runtime.io.sources import gstreamer_library

    monkeypatch.setitem(sys.modules, "gi", None)
    monkeypatch.setattr(sys, "path", places)
    with pytest.raises(MissingDependency) as caught:
        gstreamer_library.load_gstreamer()
    assert remedy in str(caught.value)
    assert "gstreamer1.0-plugins-good" in str(caught.value)


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"rtspsrc location=rtsp://me:{SECRET}@host/x ! q", "rtspsrc location=rtsp://host/x ! q"),
        (
            f'rtspsrc location="rtsp://me:{SECRET} b@host/x" ! q',
            'rtspsrc location="rtsp://host/x" ! q',
        ),
        (f"src location='http://h/x?sid={SECRET}'", "src location='http://h/x?***'"),
        (f"rtspsrc user-id=me user-pw={SECRET} ! q", "rtspsrc user-id=*** user-pw=*** ! q"),
        (f'srtsrc passphrase = "{SECRET} b" ! q', 'srtsrc passphrase = "***" ! q'),
        (f"src uri=srt://h:1?passphrase={SECRET} ! q", "src uri=srt://h:1?*** ! q"),
        (f"rtsp://me:{SECRET}@host/x ! decodebin", "rtsp://host/x ! decodebin"),
        (f"souphttpsrc proxy=me:{SECRET}@p ! q", "souphttpsrc proxy=*** ! q"),
        (f"src target=me:{SECRET}@host ! q", "src target=*** ! q"),
        (f'src extra-headers="h,Authorization=(string){SECRET}"', 'src extra-headers="***"'),
        (f'no property "rtsp://me:{SECRET}@h/x" here', 'no property "rtsp://h/x" here'),
        (f"(refused, URL: http://me:{SECRET}@h/x, Redirect", "(refused, URL: http://h/x, Redirect"),
        ("v4l2src device=/dev/video0 ! video/x-raw,width=640,framerate=30/1",) * 2,
    ],
)
def test_nothing_of_a_pipeline_that_is_secret_is_shown(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown
    assert display_name(f"gst:{text}") == f"gst:{shown}"
