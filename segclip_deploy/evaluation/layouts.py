"""Where the images and masks of a dataset lie: ours, and the trees of the published ones as they are downloaded.

A download is never changed. Each layout is one function that lists images with their masks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.choices import LayoutName
from segclip_deploy.runtime.formats.kinds import IMAGE_SUFFIXES

__all__ = [
    "LAYOUTS",
    "OWN",
    "ImageEntry",
    "Layout",
    "find_layout",
    "is_dataset",
    "list_files",
]

OWN: LayoutName = "segclip-deploy"
"""The layout that has a split.json."""


@dataclass(frozen=True)
class ImageEntry:
    """An image of a dataset.

    Attributes:
        name: in the dataset: its path below the root, or as split.json says, without suffix.
        split: the publisher's; empty where there is none.
        images, masks: the files that may be it, and its mask; one of each is expected. The images of a
            test split have no masks.
        scene: what it was cut from, or the flight it belongs to: a scene is in one split only.
    """

    name: str
    split: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    scene: str


@dataclass(frozen=True)
class Layout:
    """How the files of a dataset lie.

    Attributes:
        name: on the command line.
        tree: the folders that tell it, for people.
        source: who defines it.
        vocabulary: the shipped one that its masks are read with; None: the user's.
        matches: whether a folder is such a dataset.
        entries: its images; the second argument is what a mask's name has more than its image's.
    """

    name: LayoutName
    tree: str
    source: str
    vocabulary: str | None
    matches: Callable[[Path], bool]
    entries: Callable[[Path, str], Iterator[ImageEntry]]


def find_layout(root: Path, name: str | None = None) -> Layout:
    """The layout of a folder, by what is there; or the one that is named.

    Raises:
        BadInput: none fits, several do, or the one that is named does not.
    """
    found = [
        layout
        for layout in LAYOUTS.values()
        if layout.matches(root) and name in (None, layout.name)
    ]
    if name is not None and not found:
        trees = [layout.tree for layout in LAYOUTS.values() if layout.name == name]
        raise BadInput(f"not of layout {name}: it has no {', '.join(trees)}", where=root)
    if not found:
        known = "; ".join(f"{layout.tree} ({layout.name})" for layout in LAYOUTS.values())
        what = "not a dataset" if root.is_dir() else "no such folder"
        raise BadInput(f"{what}: a dataset has {known}", where=root)
    if len(found) > 1:
        raise BadInput(
            f"may be {' or '.join(layout.name for layout in found)}",
            where=root,
            fix=f"say which: --layout {found[0].name}",
        )
    return found[0]


def is_dataset(root: Path) -> bool:
    """Whether a folder has splits: a split.json, or the tree of a published dataset."""
    own = (root / "split.json").is_file() and (root / "images").is_dir()
    return own or any(layout.matches(root) for layout in LAYOUTS.values() if layout.name != OWN)


def list_files(folder: Path) -> list[Path]:
    """The images of a folder, in one look; none where there is no such folder."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found]
    except (FileNotFoundError, NotADirectoryError):
        return []
    suffixes = IMAGE_SUFFIXES  # names are looked at as text: there are many
    images = (n for n in names if n.lower().endswith(suffixes) and not n.startswith("."))
    return [folder / name for name in sorted(images)]


def _by_stem(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for file in files:
        found[file.stem] = (*found.get(file.stem, ()), file)  # two at most, of a sound dataset
    return found


def _folders(root: Path, pattern: str) -> list[tuple[Path, str]]:
    """Sub-folders whose name fits a pattern whole, with its first group in lower case."""
    if not root.is_dir():
        return []
    fits = ((path, re.fullmatch(pattern, path.name, re.IGNORECASE)) for path in root.iterdir())
    return sorted((path, match[1].lower()) for path, match in fits if match and path.is_dir())


_SPLIT = r"(train|val|test)"


def _is_own(root: Path) -> bool:
    return (root / "images").is_dir()


def _own(root: Path, mask_suffix: str) -> Iterator[ImageEntry]:
    masks = _by_stem(list_files(root / "masks"))
    for stem, images in _by_stem(list_files(root / "images")).items():
        yield ImageEntry(stem, "", images, masks.get(stem + mask_suffix, ()), stem)


def _is_loveda(root: Path) -> bool:
    return any(
        (area / "images_png").is_dir()
        for split, _ in _folders(root, _SPLIT)
        for area, _ in _folders(split, r"(urban|rural)")
    )


def _loveda(root: Path, _: str) -> Iterator[ImageEntry]:
    for folder, split in _folders(root, _SPLIT):
        for area, _name in _folders(folder, r"(urban|rural)"):
            masks = _by_stem(list_files(area / "masks_png"))
            for stem, images in _by_stem(list_files(area / "images_png")).items():
                name = f"{folder.name}/{area.name}/{stem}"
                yield ImageEntry(name, split, images, masks.get(stem, ()), name)


def _is_uavid(root: Path) -> bool:
    return any(
        (sequence / "Images").is_dir()
        for split, _ in _folders(root, rf"uavid_{_SPLIT}")
        for sequence, _ in _folders(split, r"(seq\d+)")
    )


def _uavid(root: Path, _: str) -> Iterator[ImageEntry]:
    for folder, split in _folders(root, rf"uavid_{_SPLIT}"):
        for sequence, _name in _folders(folder, r"(seq\d+)"):
            masks = _by_stem(list_files(sequence / "Labels"))
            scene = f"{folder.name}/{sequence.name}"  # neighbours in time show the same ground
            for stem, images in _by_stem(list_files(sequence / "Images")).items():
                yield ImageEntry(f"{scene}/{stem}", split, images, masks.get(stem, ()), scene)


_COLOURS = "_instance_color_RGB"
_IDS = "_instance_id_RGB"


def _is_isaid(root: Path) -> bool:
    return any(
        (folder / "images").is_dir()
        and ((folder / "Semantic_masks").is_dir() or any(folder.glob(f"images/*{_COLOURS}.png")))
        for folder, _ in _folders(root, _SPLIT)
    )


def _isaid(root: Path, _: str) -> Iterator[ImageEntry]:
    for folder, split in _folders(root, _SPLIT):
        # The archives of images and masks have folders of their own inside, by how they are unpacked.
        files = [file for place, _, _ in os.walk(folder) for file in list_files(Path(place))]
        masks = _by_stem(file for file in files if file.stem.endswith(_COLOURS))
        pictures = _by_stem(file for file in files if not file.stem.endswith((_COLOURS, _IDS)))
        for stem, images in pictures.items():
            name = f"{folder.name}/{stem}"
            yield ImageEntry(name, split, images, masks.get(stem + _COLOURS, ()), name)


def _is_mmseg(root: Path) -> bool:
    return (root / "img_dir").is_dir() and (root / "ann_dir").is_dir()


_PATCH = re.compile(r"(.+)_\d+_\d+_\d+_\d+")
"""Of mmsegmentation's converters: P0003_0_896_512_1408 was cut from P0003."""


def _mmseg(root: Path, mask_suffix: str) -> Iterator[ImageEntry]:
    for folder, split in _folders(root / "img_dir", r"(\w+)"):
        masks = _by_stem(list_files(root / "ann_dir" / folder.name))
        for stem, images in _by_stem(list_files(folder)).items():
            found = masks.get(stem + mask_suffix) or masks.get(stem + _COLOURS, ())
            patch = _PATCH.fullmatch(stem)
            scene = f"{split}/{patch[1] if patch else stem}"
            yield ImageEntry(f"{folder.name}/{stem}", split, images, found, scene)


LAYOUTS: Mapping[LayoutName, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            OWN,
            "images/ and masks/, and split.json",
            "docs/how-to/datasets.md",
            None,
            _is_own,
            _own,
        ),
        Layout(
            "loveda",
            "Train|Val|Test/Urban|Rural/images_png and masks_png",
            "https://github.com/Junjue-Wang/LoveDA",
            "loveda",
            _is_loveda,
            _loveda,
        ),
        Layout(
            "uavid",
            "uavid_train|uavid_val|uavid_test/seqN/Images and Labels",
            "https://uavid.nl",
            "uavid",
            _is_uavid,
            _uavid,
        ),
        Layout(
            "isaid",
            "train|val|test/images and Semantic_masks",
            "https://captain-whu.github.io/iSAID",
            "isaid",
            _is_isaid,
            _isaid,
        ),
        Layout(
            "mmseg",
            "img_dir/SPLIT and ann_dir/SPLIT",
            "https://github.com/open-mmlab/mmsegmentation",
            None,
            _is_mmseg,
            _mmseg,
        ),
    )
}
