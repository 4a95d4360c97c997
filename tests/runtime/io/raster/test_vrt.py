"""VRTs: what they may refer to. A server that nobody may ask, and a folder that nobody may read, watch."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.raster.gdal import opened
from segclip_deploy.runtime.io.raster.pixels import read_window
from segclip_deploy.runtime.io.raster.segment import settings_digest
from tests.support.rasters import describe, noise, segmenter, write_raster

PLACE = "<SRS>EPSG:25832</SRS><GeoTransform>346000,0.5,0,5648000,0,-0.5</GeoTransform>"


def simple(name: str, relative: int = 1, kind: str = "SimpleSource", band: int = 1) -> str:
    return (
        f'<{kind}><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></{kind}>"
    )


def write_vrt(path: Path, *bands: str, attributes: str = "", extra: str = "") -> Path:
    """A VRT of 30×20 pixels; one band's content is taken for all three."""
    three = bands if len(bands) == 3 else bands * 3
    parts = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}">'
        f"<ColorInterp>{colour}</ColorInterp>{band}</VRTRasterBand>"
        for number, (colour, band) in enumerate(
            zip(("Red", "Green", "Blue"), three, strict=True), start=1
        )
    )
    path.parent.mkdir(exist_ok=True)
    size = f'rasterXSize="30" rasterYSize="20" {attributes}'
    path.write_text(f"<VRTDataset {size}>{PLACE}{extra}{parts}</VRTDataset>")
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """in/a.tif, and secret.tif beside the folder ``in``."""
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for name in ("in/a.tif", "in/deeper/b.tif", "secret.tif"):
        write_raster(tmp_path / name, noise(20, 30))
    return tmp_path


@pytest.fixture
def port() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what has arrived there."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(999))

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)


def test_sources_in_its_folder_and_below_are_read(folders: Path) -> None:
    bands = [simple("a.tif"), simple("deeper/b.tif", kind="ComplexSource"), simple("n.vrt")]
    write_vrt(folders / "in" / "n.vrt", simple(str(folders / "in" / "a.tif"), 0))
    path = write_vrt(folders / "in" / "v.vrt", *bands)
    raster = describe(path, segmenter())
    expected = noise(20, 30)[[0, 0, 0]].transpose(1, 2, 0)
    np.testing.assert_array_equal(read_window(raster)[0], expected)
    names = {file.name for file in raster.files}
    assert names == {"v.vrt", "a.tif", "b.tif", "n.vrt"}
    before = settings_digest(segmenter(), raster, "engine")
    write_raster(folders / "in" / "deeper" / "b.tif", noise(20, 30, 1), compress="lzw")
    assert settings_digest(segmenter(), describe(path, segmenter()), "engine") != before


@pytest.mark.parametrize(
    "band",
    [
        simple("../secret.tif"),
        simple("../secret.tif", kind="ComplexSource"),
        simple("../secret.tif", kind="AveragedSource"),
        simple("{folders}/secret.tif", 0),
        simple("link.tif"),
        simple("nested.vrt"),
        simple("GTIFF_DIR:1:{folders}/secret.tif", 0),
        simple("vrt://{folders}/secret.tif", 0),
        simple("/vsigzip/{folders}/secret.tif", 0),
        simple("/vsicurl/http://127.0.0.1:{port}/a.tif", 0),
        simple("/vsicurl/http://127.0.0.1:{port}/a.tif"),
        simple("http://127.0.0.1:{port}/a.tif", 0),
        simple("&lt;GDAL_WMS&gt;&lt;Service&gt;&lt;/Service&gt;&lt;/GDAL_WMS&gt;", 0),
        simple("a.txt"),
        simple("missing.tif"),
        "<simplesource><sourcefilename>{folders}/secret.tif</sourcefilename></simplesource>",
        '<SimpleSource SourceFilename="{folders}/secret.tif"><SourceBand>1</SourceBand></SimpleSource>',
        simple("../secret.tif<!-- -->/../in/a.tif"),  # whose text ends there for GDAL
        "<Overview>" + simple("../secret.tif")[14:-15] + "</Overview>" + simple("a.tif"),
    ],
)
@pytest.mark.faults
def test_a_vrt_reaches_neither_the_network_nor_other_folders(
    folders: Path, band: str, port: tuple[int, list[bytes]]
) -> None:
    number, asked = port
    (folders / "in" / "link.tif").symlink_to(folders / "secret.tif")
    (folders / "in" / "a.txt").write_text("no image")
    write_vrt(folders / "in" / "nested.vrt", simple("../secret.tif"))
    path = write_vrt(folders / "in" / "v.vrt", band.format(folders=folders, port=number))
    with pytest.raises(BadInput, match=r"in/(v|nested)\.vrt: (refers to|a VRT that names)"):
        describe(path, segmenter())
    assert not asked


@pytest.mark.parametrize(
    ("attributes", "extra"),
    [
        ('subClass="VRTProcessedDataset"', ""),
        ('subClass="VRTPansharpenedDataset"', ""),
        ("", "<subClass>VRTProcessedDataset</subClass>"),
    ],
)
def test_kinds_whose_sources_are_not_known_are_refused(
    folders: Path, attributes: str, extra: str
) -> None:
    path = write_vrt(folders / "in" / "v.vrt", simple("a.tif"), attributes=attributes, extra=extra)
    with pytest.raises(BadInput, match=r"a VRT of the kind VRTP.*cannot be checked"):
        describe(path, segmenter())


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.faults
def test_code_in_a_vrt_is_never_run(folders: Path, remote: bool) -> None:
    code = (
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        f"<PixelFunctionCode>open({str(folders / 'ran')!r}, 'w')</PixelFunctionCode>"
    )
    path = write_vrt(folders / "in" / "v.vrt", code + simple("a.tif"))
    with pytest.raises(BadInput, match="holds code"):
        describe(path, segmenter(), allow_remote=remote)
    assert not (folders / "ran").exists()


def test_entities_and_endless_nesting_are_refused(folders: Path) -> None:
    path = folders / "in" / "v.vrt"
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]><VRTDataset>&a;</VRTDataset>')
    with pytest.raises(BadInput, match="document type"):
        describe(path, segmenter())
    write_vrt(path, simple("w.vrt"))
    write_vrt(folders / "in" / "w.vrt", simple("v.vrt"))
    with pytest.raises(BadInput, match="a VRT that refers to itself"):
        describe(path, segmenter())
    path.write_text("<VRTDataset")
    with pytest.raises(BadInput, match="no VRT that can be read"):
        describe(path, segmenter())


def test_raw_pixels_in_its_folder_are_read(folders: Path) -> None:
    (folders / "in" / "pixels.raw").write_bytes(noise(20, 30).tobytes())
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}" subClass="VRTRawRasterBand">'
        f"<ColorInterp>{colour}</ColorInterp>"
        '<SourceFilename relativeToVRT="1">pixels.raw</SourceFilename>'
        f"<ImageOffset>{600 * (b - 1)}</ImageOffset></VRTRasterBand>"
        for b, colour in enumerate(("Red", "Green", "Blue"), start=1)
    )
    path = folders / "in" / "v.vrt"
    path.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{PLACE}{bands}</VRTDataset>')
    pixels, _ = read_window(describe(path, segmenter()))
    np.testing.assert_array_equal(pixels, noise(20, 30).transpose(1, 2, 0))
    path.write_text(path.read_text().replace("pixels.raw", "../secret.tif"))
    with pytest.raises(BadInput, match="outside its folder"):
        describe(path, segmenter())


@pytest.mark.faults
def test_the_remedies_for_a_vrt_work(folders: Path) -> None:
    """--allow-remote, and the command that is printed, in a shell."""
    path = write_vrt(folders / "in" / "it's v.vrt", simple("../secret.tif"))
    with pytest.raises(BadInput) as caught:
        describe(path, segmenter())
    expected = noise(20, 30)[[0, 0, 0]].transpose(1, 2, 0)
    raster = describe(path, segmenter(), allow_remote=True)
    np.testing.assert_array_equal(read_window(raster)[0], expected)
    command = str(caught.value).partition("one file of its pixels: ")[2]
    assert command.startswith("rio convert ")
    subprocess.run(
        f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; {command}",
        shell=True,
        check=True,
    )
    made = Path(shlex.split(command)[-1])
    np.testing.assert_array_equal(read_window(describe(made, segmenter()))[0], expected)


def test_gdal_itself_is_kept_from_the_network(port: tuple[int, list[bytes]]) -> None:
    """What a file of another format refers to is not looked at: GDAL has no network at all."""
    number, asked = port
    text = simple(f"/vsicurl/http://127.0.0.1:{number}/a.tif", 0)
    vrt = (
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1">'
        f"{text}</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(BadInput), opened(vrt, "VRT") as dataset:
        dataset.read(1)
    assert not asked
    vrt = vrt.replace("a.tif", "b.tif")
    with suppress(BadInput), opened(vrt, "VRT", allow_remote=True) as dataset:
        dataset.read(1)
    assert asked
