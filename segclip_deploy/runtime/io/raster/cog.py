"""Labels as Cloud-Optimized GeoTIFF."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from segclip_deploy._optional import require
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.runtime.io.raster.gdal import environment, gdal_errors
from segclip_deploy.runtime.io.raster.source import Raster

__all__ = ["DIGEST_TAG", "stored_digest", "write_cog"]

DIGEST_TAG = "SEGCLIP_DEPLOY_DIGEST"
"""Metadata of the file: what its labels were made from and with."""

_OPTIONS = {
    "COMPRESS": "LZW",  # of labels 3 % more than DEFLATE's level 6 at a third of its time
    "BLOCKSIZE": "512",
    "OVERVIEW_RESAMPLING": "NEAREST",  # there is nothing between two classes
    "BIGTIFF": "IF_SAFER",
}


def write_cog(
    labels: Path, raster: Raster, vocabulary: Vocabulary, out: Path, *, digest: str
) -> None:
    """Write label rows as a COG: 512² tiles, overviews, colours, class names, CRS, nodata 255.

    Class names stand in the metadata of the band, CLASS_0 …, and as GDAL's category names in
    ``out``.aux.xml, because a TIFF has no place for those.

    Args:
        labels: the file of a whole ``Partial``; more files are written beside it.

    Raises:
        OSError: the file could not be written; ``out`` is as it was.
    """
    shutil = require("rasterio.shutil", why="writing GeoTIFF")
    source, made = labels.with_suffix(".vrt"), labels.with_suffix(".tif")
    try:
        source.write_text(_vrt(labels, raster, vocabulary, digest), encoding="utf-8")
        with environment():
            shutil.copy(source, made, driver="COG", **_OPTIONS)
    except gdal_errors() as error:
        raise OSError(None, f"cannot be written ({error.__cause__ or error})", str(out)) from error
    sidecar = made.with_name(made.name + ".aux.xml")
    sidecar.replace(out.with_name(out.name + ".aux.xml"))
    made.replace(out)


def stored_digest(path: Path) -> str | None:
    """What an existing output was made from and with; None for what is none."""
    rasterio = require("rasterio", why="writing GeoTIFF")
    try:
        with rasterio.open(path, driver="GTiff") as dataset:
            return dataset.tags().get(DIGEST_TAG)
    except gdal_errors():
        return None


def _vrt(labels: Path, raster: Raster, vocabulary: Vocabulary, digest: str) -> str:
    """GDAL's description of raw labels: https://gdal.org/drivers/raster/vrt.html."""
    height, width = raster.grid.own
    crs = f"<SRS>{escape(raster.crs.to_wkt())}</SRS>" if raster.crs else ""
    place = ", ".join(map(repr, raster.transform.to_gdal()))
    black = [(0, 0, 0)] * (IGNORE_INDEX - len(vocabulary.classes))
    colours = [(*entry.colour, 255) for entry in vocabulary.classes]
    entries = [*colours, *[(*colour, 255) for colour in black], (0, 0, 0, 0)]
    table = "".join(
        f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{alpha}"/>' for r, g, b, alpha in entries
    )
    categories = "".join(f"<Category>{escape(name)}</Category>" for name in vocabulary.names)
    tags = "".join(
        f"<MDI key={quoteattr(f'CLASS_{index}')}>{escape(name)}</MDI>"
        for index, name in enumerate(vocabulary.names)
    )
    return f"""<VRTDataset rasterXSize="{width}" rasterYSize="{height}">
{crs}<GeoTransform>{place}</GeoTransform>
<Metadata><MDI key="AREA_OR_POINT">{escape(raster.area_or_point)}</MDI>
<MDI key="{DIGEST_TAG}">{digest}</MDI></Metadata>
<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">
<ColorInterp>Palette</ColorInterp><ColorTable>{table}</ColorTable>
<NoDataValue>{IGNORE_INDEX}</NoDataValue><CategoryNames>{categories}</CategoryNames>
<Metadata>{tags}</Metadata>
<SourceFilename relativeToVRT="1">{labels.name}</SourceFilename>
<ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>{width}</LineOffset>
</VRTRasterBand></VRTDataset>
"""
