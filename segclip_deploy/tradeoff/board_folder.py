"""A folder for a board: everything that ``benchmark`` measures there, made on a workstation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy.artifacts.bundle import BUNDLE_FILES
from segclip_deploy.artifacts.files import replace_directory, sha256_file, write_json
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.errors import BadInput, StaleArtifact, command
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.progress import Report
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.tradeoff.row import FailedPoint
from segclip_deploy.tradeoff.sweep_grid import Point

__all__ = [
    "MANIFEST",
    "MANIFEST_FILE",
    "BoardFolder",
    "Manifest",
    "check_disk",
    "check_replaceable",
    "load_manifest",
    "variant_name",
    "write_board_folder",
]

MANIFEST_FILE = "manifest.json"
_BUNDLES, _DATA = "bundles", "data"


class Manifest(Record, frozen=True):
    """What a folder for a board holds.

    Attributes:
        segclip_deploy: version that made it.
        split: of the dataset, that reports accuracy.
        plan_split: that planned mixes were chosen on; None where nothing was planned.
        reading: how its images are read.
        bundles: folders of it, in FP32 and quantized.
        failures: variants that could not be made, and why.
        files: SHA-256 of every other file, by path.
        bytes: of all of them.
    """

    segclip_deploy: str
    split: str
    plan_split: str | None
    reading: Reading
    bundles: tuple[str, ...]
    failures: tuple[FailedPoint, ...]
    files: Mapping[str, str]
    bytes: int


MANIFEST = Format("a folder for a board", Manifest, schema=1)
"""Of ``manifest.json``."""


@dataclass(frozen=True)
class BoardFolder:
    """A folder that was prepared for a board.

    Attributes:
        path: of it.
        manifest: what it holds.
    """

    path: Path
    manifest: Manifest

    @property
    def bundles(self) -> list[Path]:
        """The bundles, FP32 and quantized."""
        return [self.path / name for name in self.manifest.bundles]

    @property
    def dataset(self) -> Path:
        """The images and masks to evaluate on."""
        return self.path / _DATA

    def to_json(self) -> dict[str, Any]:
        """Path, size, and what is in it."""
        manifest = self.manifest
        return {
            "path": str(self.path),
            "bytes": manifest.bytes,
            "bundles": list(manifest.bundles),
            "failures": [failure.to_json() for failure in manifest.failures],
        }


def variant_name(point: Point) -> str:
    """What a point's bundle is called in the folder: all that was chosen for it, but what the board chooses."""
    if point.made is not None:
        return point.made.name
    parts = [point.bundle.name]
    if point.precision != "fp32":
        budget = "" if point.budget is None else f"-{point.budget:g}"
        parts += [point.precision + budget, TARGETS[point.target].scheme.value]
    if point.method not in (None, "percentile"):
        parts.append(str(point.method))
    return "-".join(parts)


def write_board_folder(
    out: Path,
    bundles: Mapping[str, Path],
    data: Dataset,
    split: str,
    *,
    plan_split: str | None,
    failures: Sequence[FailedPoint],
    report: Report,
) -> BoardFolder:
    """Copy bundles and the images of a split into one folder, whole or not at all.

    Args:
        out: the folder; an older one is replaced.
        bundles: by the names that they get.
        data: that they are evaluated on; its files are copied as they are.
        split: of it.
        plan_split: that planned mixes were chosen on.
        failures: variants that could not be made.
        report: told how far it is.

    Raises:
        BadInput: ``out`` holds something else, or the disk is too small; says how much it takes.
    """
    check_replaceable(out)
    names = data.names(split)
    pairs = {f"{index:05}": (data.image(n), data.mask(n)) for index, n in enumerate(names)}
    sources = [file for pair in pairs.values() for file in pair]
    sources += [path / file for path in bundles.values() for file in _files_of(path)]
    check_disk(out, sum(path.stat().st_size for path in sources))
    with replace_directory(out, contents=(_BUNDLES, _DATA, MANIFEST_FILE)) as temporary:
        for name, path in bundles.items():
            _copy(path, _files_of(path), temporary / _BUNDLES / name)
        for index, (name, (image, mask)) in enumerate(pairs.items()):
            report("copying images", index, len(pairs))
            for folder, file in (("images", image), ("masks", mask)):
                target = temporary / _DATA / folder / (name + file.suffix)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        write_json(temporary / _DATA / "split.json", {split: list(pairs)})
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = Manifest(
            segclip_deploy=__version__,
            split=split,
            plan_split=plan_split,
            reading=data.reading,
            bundles=tuple(f"{_BUNDLES}/{name}" for name in bundles),
            failures=tuple(failures),
            files={path.relative_to(temporary).as_posix(): sha256_file(path) for path in files},
            bytes=sum(path.stat().st_size for path in files),
        )
        MANIFEST.write(temporary / MANIFEST_FILE, manifest)
    return BoardFolder(out, manifest)


def load_manifest(folder: Path, report: Report) -> BoardFolder:
    """Open a folder for a board, after checking every file of it.

    Raises:
        BadArtifact: no manifest, or not a valid one.
        StaleArtifact: a file is missing, or another one than was written.
    """
    remedy = command("segclip-deploy", "benchmark", "--prepare", folder)
    manifest = MANIFEST.read(folder / MANIFEST_FILE, fix=f"{remedy} …, and copy it again")
    for index, (name, digest) in enumerate(manifest.files.items()):
        report("checking files", index, len(manifest.files))
        file = folder / name
        if not file.is_file() or sha256_file(file) != digest:
            what = "is not what was prepared" if file.is_file() else "is missing"
            raise StaleArtifact(what, where=file, fix="copy the folder again")
    return BoardFolder(folder, manifest)


def check_replaceable(out: Path) -> None:
    """Accept a place where nothing is, or a folder that was written here and holds nothing else.

    Raises:
        BadInput: it holds something else; says what.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return
    known: set[str] = set()
    if (out / MANIFEST_FILE).is_file():
        manifest = MANIFEST.read(out / MANIFEST_FILE, fix="choose another folder")
        known = {MANIFEST_FILE, *manifest.files}
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    if foreign := sorted(files - known):
        raise BadInput(
            f"holds {foreign[0]}, which this command has not written",
            where=out,
            fix="choose another folder",
        )


def check_disk(place: Path, needed: int) -> None:
    """Refuse what does not fit on a disk, with a tenth to spare.

    Raises:
        BadInput: it does not.
    """
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed * 1.1 > free:
        raise BadInput(
            f"takes about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
            where=place,
            fix="make room, or choose another disk",
        )


def _files_of(bundle: Path) -> list[str]:
    return [name for name in sorted(BUNDLE_FILES) if (bundle / name).is_file()]


def _copy(source: Path, names: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, out / name)
