"""What a pruned network learns from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.runtime.inference.frame import list_images
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.training.crop_loader import Loading

__all__ = ["Material"]

_SPLITS = ("train", "plan")


@dataclass(frozen=True)
class Material:
    """What a pruned network learns from.

    Attributes:
        dataset: with masks, and splits ``train`` and ``plan``; None: the tiles alone.
        tiles: unlabelled images and folders.
        loading: how they are read; None: as usual.
        reading: what of the tiles' values is red, green and blue; of the dataset it says so itself.
    """

    dataset: Dataset | None
    tiles: tuple[Path, ...] = ()
    loading: Loading | None = None
    reading: Reading = field(default_factory=Reading)

    @property
    def labelled(self) -> bool:
        """Whether there are masks."""
        return self.dataset is not None

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """The files of the tiles.

        Raises:
            BadInput: a folder without images, or none.
        """
        return tuple(image for source in self.tiles for image in list_images(source))

    def check(self) -> None:
        """Refuse what cannot teach, before anything is measured.

        Raises:
            BadInput: no images, or too few; a split is missing or empty; tiles are among those that judge.
        """
        data = self.dataset
        if data is None:
            if len(self.images) < 2:
                raise BadInput(
                    f"{len(self.images)} images: one is held out, and others teach", where="--tiles"
                )
            refuse_idle_options(self.images, self.reading)
            return
        for split in _SPLITS:
            if not data.names(split):
                raise BadInput(f"split {split!r} is empty", where=data.root)
        self._refuse_judges(data)

    def identity(self) -> dict[str, Any]:
        """All that decides what is learned; a file by its place, its size and when it was changed.

        Raises:
            BadInput: an image or a mask is missing.
        """
        data = self.dataset
        found: dict[str, Any] = {
            "tiles": [_stamp(image) for image in self.images],
            "reading": asdict(self.reading if data is None else data.reading),
        }
        if data is not None:
            for split in _SPLITS:
                names = data.names(split)
                found[split] = [(_stamp(data.image(one)), _stamp(data.mask(one))) for one in names]
        return found

    def _refuse_judges(self, data: Dataset) -> None:
        """Refuse tiles that are images of another split than ``train``, byte for byte."""
        by_size: dict[int, list[Path]] = {}
        for tile in self.images:
            by_size.setdefault(tile.stat().st_size, []).append(tile)
        digest = cache(sha256_file)  # files of a raw format are all of one size
        for split, name in data.index.not_for_training():
            entry = data.index.entries.get(name)
            for image in entry.images if entry else ():  # what is missing is not read either
                for tile in by_size.get(image.stat().st_size, ()):
                    if digest(tile) == digest(image):
                        raise BadInput(
                            f"is {image}, and split {split!r} there judges what is learned",
                            where=tile,
                            fix="leave it out of --tiles",
                        )


def _stamp(path: Path) -> tuple[str, int, int]:
    """What tells a file from one that it was replaced with, without reading it."""
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns
