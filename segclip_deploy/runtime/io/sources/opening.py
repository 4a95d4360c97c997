"""From what the user names to a source of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.runtime.formats.address import Address, display_name, is_address
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.io.rosbag import is_rosbag
from segclip_deploy.runtime.io.sources.base import Source
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.gstreamer_decoders import Decoder
from segclip_deploy.runtime.io.sources.gstreamer_presets import is_pipeline
from segclip_deploy.runtime.io.sources.gstreamer_sources import open_camera, open_pipeline
from segclip_deploy.runtime.io.sources.listing import count_folders, find_files
from segclip_deploy.runtime.io.sources.live import LiveSource, is_live
from segclip_deploy.runtime.io.sources.naming import RemoteFilm, SourceFile
from segclip_deploy.runtime.io.sources.recording import Recording, RecordingSource, name_recordings
from segclip_deploy.runtime.io.sources.remote import Remote, fetch_picture, find_kind

__all__ = ["Found", "find_sources"]

_RTSP = ("rtsp://", "rtsps://")
_DECODED = "rtsp:// cameras and video files"


@dataclass(frozen=True)
class Found:
    """What the sources of a run are: files, recordings, or one camera.

    Attributes:
        files: on this machine, copies of pictures from servers among them.
        films: on servers.
        camera: its URL or device, or the pipeline that GStreamer reads it with.
        recordings: of ROS 2.
    """

    files: tuple[SourceFile, ...] = ()
    films: tuple[RemoteFilm, ...] = ()
    camera: str | None = None
    recordings: tuple[Recording, ...] = ()

    @contextmanager
    def open(
        self,
        frames: Sequence[SourceFile],
        report: Callable[[str], None],
        *,
        reading: Reading | None = None,
        max_megapixels: float | None = None,
        topic: str | None = None,
        decoder: Decoder | None = None,
    ) -> Iterator[Source]:
        """The camera, or the recordings; or ``frames``, those of ``files`` that are no rasters, and the films.

        Raises:
            UsageError: ``topic``, of what is no recording; ``decoder``, of a source that chooses
                its own or is no video.
            BadInput: a recording without such images; a pipeline that cannot be opened.
            MissingDependency: GStreamer is needed and not here.
        """
        self._refuse_idle(frames, topic, decoder)
        if self.recordings:
            bands = None if reading is None else reading.bands
            yield RecordingSource(self.recordings, topic=topic, bands=bands, report=report)
        elif self.camera is None:
            yield FileSource(
                [*frames, *self.films],
                reading=reading,
                max_megapixels=max_megapixels,
                decoder=decoder,
                report=report,
            )
        elif is_pipeline(self.camera):
            with open_pipeline(self.camera, report) as source:
                yield source
        elif decoder is not None:
            with open_camera(self.camera, decoder, report) as source:
                yield source
        else:
            yield LiveSource(self.camera, report=report)

    def _refuse_idle(
        self, frames: Sequence[SourceFile], topic: str | None, decoder: Decoder | None
    ) -> None:
        """Options that would change nothing, or less than it seems."""
        if topic is not None and not self.recordings:
            raise UsageError(
                "is for recordings: flight.mcap, or a folder of rosbag2", where="--topic"
            )
        if decoder is None:
            return
        what = where = None
        if self.camera is not None and is_pipeline(self.camera):
            what, where = "its pipeline names the decoder", display_name(self.camera)
        elif self.camera is not None and not self.camera.lower().startswith(_RTSP):
            what, where = f"--decoder is for {_DECODED}", display_name(self.camera)
        elif self.films:
            what, where = f"--decoder is for {_DECODED}, not on servers", self.films[0].shown
        elif self.camera is None and not any(file.is_film for file in frames):
            what = f"--decoder does nothing: it is for {_DECODED}"
        if what is not None:
            raise UsageError(what, where=where, fix="leave --decoder out")


def find_sources(
    sources: Sequence[str], out: Path, *, folder: Path, report: Callable[[str], None]
) -> Found:
    """Find out what the sources of a run are.

    Args:
        sources: files, folders, URLs and devices, as the user named them.
        out: the folder that the results go to.
        folder: for copies of pictures from servers; it stays until the run has ended.
        report: is told how many files lie in how many folders.

    Raises:
        BadInput: as ``find_files`` and ``is_rosbag``; a camera or a recording beside other sources;
            results that would have one name.
    """
    pipelines = [source for source in sources if is_pipeline(source)]
    if pipelines:
        _refuse_others(sources)
        return Found(camera=pipelines[0])
    sources = [_local(source) for source in sources]
    kinds = {
        source: find_kind(Address(source)) if is_address(source) else Remote.LIVE
        for source in sources
        if is_live(source)
    }
    if Remote.LIVE in kinds.values():
        _refuse_others(sources)
        return Found(camera=sources[0])
    recordings = [source for source in sources if source not in kinds and _is_recording(source)]
    if recordings and len(recordings) < len(sources):
        raise BadInput(
            "recordings and other sources are two runs",
            where=recordings[0],
            fix="name the recordings in a run of their own",
        )
    if recordings:
        return Found(recordings=tuple(name_recordings([Path(one) for one in recordings])))
    files = find_files([Path(source) for source in sources if source not in kinds], out)
    counted = count_folders(files)
    if counted is not None:
        report(counted)
    films: list[RemoteFilm] = []
    taken = {file.name for file in files}
    for source, kind in kinds.items():
        address = Address(source)
        if address.stem in taken:
            raise BadInput(
                "its results would overwrite those of another source of this name",
                where=address,
                fix="run them into two folders",
            )
        taken.add(address.stem)
        if kind is Remote.FILM:
            films.append(RemoteFilm(address, address.stem))
        else:
            files.append(SourceFile(fetch_picture(address, folder), address.stem, address))
    return Found(tuple(files), tuple(films))


def _is_recording(source: str) -> bool:
    return Path(source).exists() and is_rosbag(Path(source))


def _refuse_others(sources: Sequence[str]) -> None:
    if len(sources) > 1:
        shown = " ".join(map(display_name, sources))
        raise BadInput("a camera is the only source of a run", where=shown)


def _local(source: str) -> str:
    """The path that a file: URL names; any other source as it is."""
    if source.lower().startswith("file://"):
        return url2pathname(urlsplit(source).path)
    return source
