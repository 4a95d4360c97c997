"""Class vocabularies: names, mask values, colours and the language that describes each class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.records import Record
from segclip_deploy.artifacts.shipped import load_yaml, shipped_names
from segclip_deploy.errors import BadInput

__all__ = [
    "IGNORE_INDEX",
    "UNLABELLED",
    "ClassEntry",
    "Vocabulary",
    "load_vocabulary",
    "shipped_vocabularies",
]

IGNORE_INDEX = 255
"""Class index of pixels which no score counts, whatever value the mask file gives them."""

UNLABELLED = "unlabelled"
"""What areas call the pixels of a label map that are ``IGNORE_INDEX``."""

_SHIPPED = "artifacts/vocabularies"


class ClassEntry(Record, frozen=True):
    """One class.

    Attributes:
        name: identifier, for example ``"low_vegetation"``.
        mask_value: its value in mask files, 0–255.
        colour: RGB, 0–255 each.
        descriptions: noun phrases that fill the vocabulary's templates.
        texts: real sentences about the class, as they are.
    """

    name: str
    mask_value: int
    colour: tuple[int, int, int]
    descriptions: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def hex_colour(self) -> str:
        """The colour as HTML and GeoJSON have it: ``#3c1098``."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


class Vocabulary(Record, frozen=True):
    """The classes of a dataset; the position in ``classes`` is the class index.

    Attributes:
        ground_sample_distance_m: metres per pixel the dataset states, or None.
        ignore_value: mask value that is no class, or None where every value is one.
        templates: prompt templates with one ``{}`` each.

    Raises:
        BadInput: values repeat or are out of range, or a class is not described.

    Examples:
        >>> from segclip_deploy import load_vocabulary
        >>> vocabulary = load_vocabulary("dubai")
        >>> vocabulary.classes[0].name, vocabulary.classes[0].colour
        ('building', (60, 16, 152))
        >>> vocabulary.palette.shape
        (5, 3)
    """

    name: str
    title: str
    source: str
    ground_sample_distance_m: float | None
    ignore_value: int | None
    templates: tuple[str, ...]
    classes: tuple[ClassEntry, ...]

    def __post_init__(self) -> None:
        found = [problem for problem, present in _problems(self).items() if present]
        if found:
            raise BadInput(f"not a valid vocabulary: {', '.join(found)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, by class index."""
        return tuple(entry.name for entry in self.classes)

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(K, 3) RGB colours, by class index."""
        return np.array([entry.colour for entry in self.classes], dtype=np.uint8)

    def check_names(self, names: Iterable[str], *, where: object) -> None:
        """Accept names of its classes.

        Raises:
            BadInput: a name that is none.
        """
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise BadInput(
                f"no class {', '.join(unknown)} (it has {', '.join(self.names)})", where=where
            )

    def prompts(self, entry: ClassEntry) -> tuple[str, ...]:
        """Every template filled with every description of ``entry``."""
        return tuple(t.format(d) for t in self.templates for d in entry.descriptions)

    def decode_mask(self, mask: NDArray[np.uint8], *, where: object = None) -> NDArray[np.uint8]:
        """Turn a mask into class indices (H, W), ``IGNORE_INDEX`` where ignored.

        Args:
            mask: (H, W) mask values, or (H, W, 3) RGB colours, of which only exact ones count.
            where: the file, for errors.

        Raises:
            BadInput: a value is neither a class nor the ignore value, or a colour is no class's.
        """
        if mask.ndim == 3:
            return self._decode_colours(mask, where)
        known = {entry.mask_value: index for index, entry in enumerate(self.classes)}
        if self.ignore_value is not None:
            known[self.ignore_value] = IGNORE_INDEX
        unknown = sorted(set(np.unique(mask).tolist()) - set(known))
        if unknown:
            raise BadInput(
                f"mask values {unknown} are not in vocabulary {self.name!r} (it has {sorted(known)})",
                where=where,
                fix="choose the vocabulary the masks were drawn with, or add the classes to a copy",
            )
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        for value, index in known.items():
            table[value] = index
        return table[mask]

    def _decode_colours(self, mask: NDArray[np.uint8], where: object) -> NDArray[np.uint8]:
        found, known = _packed(mask), _packed(self.palette)
        order = np.argsort(known).astype(np.uint8)
        place = np.minimum(np.searchsorted(known[order], found), len(order) - 1)
        indices = order[place]
        wrong = found[known[indices] != found]
        if wrong.size:
            colours, counts = np.unique(wrong, return_counts=True)
            often = np.argsort(-counts, kind="stable")[:3]
            shown = ", ".join(f"#{colours[i]:06x} ({counts[i]} pixels)" for i in often)
            grey = (mask == mask[..., :1]).all()
            raise BadInput(
                f"{len(colours)} colour{'s' * (len(colours) > 1)} in {wrong.size} pixels of this mask "
                f"belong to no class of vocabulary {self.name!r}, most often {shown}",
                where=where,
                fix="its red, green and blue are equal: write one of them, as a mask of values"
                if grey
                else "choose the vocabulary the masks were drawn with, or add the classes with "
                "these colours to a copy; a mask must not be smoothed or stored as JPEG",
            )
        return indices

    @classmethod
    def from_mapping(cls, data: Any, *, where: object = None) -> Vocabulary:
        """Check and build a vocabulary from YAML that a person wrote: numbers may stand for text.

        Raises:
            BadInput: a key is missing, unknown or of the wrong kind, or values repeat.
        """
        try:
            _check_keys(data, cls)
            classes = tuple(_class_entry(item) for item in data["classes"])
            gsd = data["ground_sample_distance_m"]
            ignore = data["ignore_value"]
            return cls(
                name=_text(data["name"]),
                title=_text(data["title"]),
                source=_text(data["source"]),
                ground_sample_distance_m=None if gsd is None else float(gsd),
                ignore_value=None if ignore is None else int(ignore),
                templates=_strings(data, "templates"),
                classes=classes,
            )
        except KeyError as error:
            raise BadInput(f"key {error} is missing", where=where) from error
        except BadInput as error:
            raise BadInput(error.what, where=where) from error
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadInput(f"not a vocabulary ({error})", where=where) from error


def shipped_vocabularies() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package."""
    return shipped_names(_SHIPPED)


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """Load a shipped vocabulary by name, or one from a YAML file.

    Raises:
        BadInput: no such vocabulary, or not a valid one.

    Examples:
        >>> from segclip_deploy import load_vocabulary
        >>> load_vocabulary("dubai").names
        ('building', 'land', 'road', 'vegetation', 'water')
    """
    data = load_yaml(name_or_path, _SHIPPED, noun="vocabulary")
    return Vocabulary.from_mapping(data, where=name_or_path)


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """0xRRGGBB of colours (..., 3)."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def _class_entry(item: Mapping[str, Any]) -> ClassEntry:
    _check_keys(item, ClassEntry)
    red, green, blue = (int(c) for c in item["colour"])
    return ClassEntry(
        name=_text(item["name"]),
        mask_value=int(item["mask_value"]),
        colour=(red, green, blue),
        descriptions=_strings(item, "descriptions"),
        texts=_strings(item, "texts"),
    )


def _check_keys(data: Mapping[str, Any], noun: type[Record]) -> None:
    unknown = sorted(set(data) - set(noun.__struct_fields__))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")


def _is_length(metres: float | None) -> bool:
    return metres is None or (math.isfinite(metres) and metres > 0)


def _strings(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if isinstance(data[key], str):
        raise TypeError(f"{key} is one string, not a list")
    return tuple(_text(value) for value in data[key])


def _text(value: Any) -> str:
    """A scalar as text; a few lines of YAML aliases can stand for any amount of nested lists."""
    if isinstance(value, (list, dict, set)):
        raise TypeError(f"a {type(value).__name__} where text should be")
    return str(value)


def _can_be_encoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problems(vocabulary: Vocabulary) -> dict[str, bool]:
    """Everything that could be wrong, and whether it is."""
    classes = vocabulary.classes
    values = [c.mask_value for c in classes]
    if vocabulary.ignore_value is not None:
        values.append(vocabulary.ignore_value)
    words = [vocabulary.title, vocabulary.source, *vocabulary.templates]
    words += [text for entry in classes for text in (*entry.descriptions, *entry.texts)]
    return {
        "fewer than two classes": len(classes) < 2,
        "more than 255 classes": len(classes) > IGNORE_INDEX,
        "a class name that cannot be printed": not all(
            name and name.isprintable() for name in (vocabulary.name, *vocabulary.names)
        ),
        "half of a surrogate pair, which cannot be printed": not all(map(_can_be_encoded, words)),
        "a ground sample distance that is no length": not _is_length(
            vocabulary.ground_sample_distance_m
        ),
        "class names repeat": len(set(vocabulary.names)) < len(classes),
        "mask values repeat": len(set(values)) < len(values),
        "mask values outside 0-255": any(not 0 <= v <= 255 for v in values),
        "colours repeat": len({c.colour for c in classes}) < len(classes),
        "colours outside 0-255": any(not 0 <= v <= 255 for c in classes for v in c.colour),
        "a template without exactly one {}": any(
            t.count("{}") != 1 or set("{}") & set(t.replace("{}", "")) for t in vocabulary.templates
        ),
        "no template": not vocabulary.templates,
        "a class without a description": any(not c.descriptions for c in classes),
        "classes with no, or unequal numbers of, texts": len({len(c.texts) for c in classes}) != 1
        or not classes[0].texts,
    }
