"""From what the user names to a source of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.runtime.formats.address import Address, display_name, is_address
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.io.rosbag import is_rosbag
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.listing import count_folders, find_files
from segclip_deploy.runtime.io.sources.live import LiveSource, is_live
from segclip_deploy.runtime.io.sources.naming import RemoteFilm, SourceFile
from segclip_deploy.runtime.io.sources.recording import Recording, RecordingSource, name_recordings
from segclip_deploy.runtime.io.sources.remote import Remote, fetch_picture, find_kind

__all__ = ["Found", "find_sources"]


@dataclass(frozen=True)
class Found:
    """What the sources of a run are: files, recordings, or one camera.

    Attributes:
        files: on this machine, copies of pictures from servers among them.
        films: on servers.
        camera: its URL or device.
        recordings: of ROS 2.
    """

    files: tuple[SourceFile, ...] = ()
    films: tuple[RemoteFilm, ...] = ()
    camera: str | None = None
    recordings: tuple[Recording, ...] = ()

    def open(
        self,
        frames: Sequence[SourceFile],
        report: Callable[[str], None],
        *,
        reading: Reading | None = None,
        max_megapixels: float | None = None,
        topic: str | None = None,
    ) -> FileSource | LiveSource | RecordingSource:
        """The camera, or the recordings; or ``frames``, those of ``files`` that are no rasters, and the films.

        Raises:
            UsageError: ``topic``, of what is no recording.
            BadInput: a recording without such images.
        """
        if topic is not None and not self.recordings:
            raise UsageError(
                "is for recordings: flight.mcap, or a folder of rosbag2", where="--topic"
            )
        if self.recordings:
            bands = None if reading is None else reading.bands
            return RecordingSource(self.recordings, topic=topic, bands=bands, report=report)
        if self.camera is not None:
            return LiveSource(self.camera, report=report)
        return FileSource(
            [*frames, *self.films],
            reading=reading,
            max_megapixels=max_megapixels,
            report=report,
        )


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
    sources = [_local(source) for source in sources]
    kinds = {
        source: find_kind(Address(source)) if is_address(source) else Remote.LIVE
        for source in sources
        if is_live(source)
    }
    if Remote.LIVE in kinds.values():
        if len(sources) > 1:
            shown = " ".join(map(display_name, sources))
            raise BadInput("a camera is the only source of a run", where=shown)
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


def _local(source: str) -> str:
    """The path that a file: URL names; any other source as it is."""
    if source.lower().startswith("file://"):
        return url2pathname(urlsplit(source).path)
    return source
