"""Bundles: a directory with a model and what belongs to it. One function writes, one reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle_record import BUNDLE, MODEL_FILES, BundleRecord
from segclip_deploy.artifacts.files import parse_json, sha256_file
from segclip_deploy.artifacts.golden import Golden, save_golden
from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.onnx_file import check_self_contained
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Lowering, Precision, Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, StaleArtifact, command

__all__ = [
    "Bundle",
    "InputSpec",
    "bundle_sha256",
    "check_file",
    "load_bundle",
    "write_bundle",
]

GOLDEN_FILE = "golden.npz"
TEXT_FILE = "text.safetensors"
RECORD_FILE = "bundle.json"
BUNDLE_FILES = (*MODEL_FILES.values(), GOLDEN_FILE, TEXT_FILE, RECORD_FILE)


def check_file(file: Path, digest: str | None, record: Path, *, fix: str) -> None:
    """Accept a file that has the SHA-256 its record states.

    Raises:
        StaleArtifact: it is missing, or was changed after the record was written.
    """
    if not file.is_file() or sha256_file(file) != digest:
        raise StaleArtifact(
            f"{file.name} is not the file {record.name} was written for",
            where=file.parent,
            fix=fix,
        )


@dataclass(frozen=True)
class Bundle:
    """A directory with an ONNX model, in one or two lowerings, and the record of what it is and comes from.

    Attributes:
        path: the directory.
        record: what ``bundle.json`` says.
        sha256: of ``bundle.json``, which names the other files' hashes. Plans, tables and engines
            know a bundle by it.
        lowering: of the graph that is worked with.
    """

    path: Path
    record: BundleRecord
    sha256: str
    lowering: Lowering

    def to_json(self) -> dict[str, Any]:
        """What ``bundle.json`` says."""
        return BUNDLE.dump(self.record)

    @property
    def input(self) -> InputSpec:
        """The graph's input."""
        return self.record.input

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return self.record.outputs

    @property
    def vocabulary(self) -> Vocabulary:
        """Classes, palette and texts."""
        return self.record.vocabulary

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 of the bundle's other files, by name."""
        return self.record.files

    @property
    def precision(self) -> Precision:
        """The lowest precision written into the model."""
        return self.record.precision

    @property
    def scheme(self) -> Scheme | None:
        """How its precision was written; None for FP32."""
        return self.record.scheme

    @property
    def lowerings(self) -> tuple[Lowering, ...]:
        """Of the graphs that it holds."""
        return self.record.lowerings

    @property
    def model_path(self) -> Path:
        """The ONNX file with the graph that is worked with."""
        return self.path / MODEL_FILES[self.lowering]

    def lowered(self, lowering: Lowering) -> Bundle:
        """The same bundle, to be worked with in another of its graphs."""
        if lowering not in self.lowerings:
            raise ValueError(f"{self.path} holds no graph for {lowering.value}")
        return dataclasses.replace(self, lowering=lowering)

    def for_scheme(self, scheme: Scheme) -> Bundle:
        """The same bundle, in the graph for the engines of a scheme; where it holds none, in its other.

        That one is right, too, and may be slower.
        """
        wanted = scheme.rules.lowering
        return self.lowered(wanted) if wanted in self.lowerings else self

    @property
    def golden_path(self) -> Path:
        """The golden tiles."""
        return self.path / GOLDEN_FILE

    @property
    def text_path(self) -> Path | None:
        """What new texts are folded in from; None where the network keeps no text apart."""
        return self.path / TEXT_FILE if TEXT_FILE in self.files else None


def write_bundle(folder: Path, record: BundleRecord, golden: Golden) -> None:
    """Complete a bundle whose graphs, and text weights if any, lie in ``folder`` already.

    Args:
        folder: of ``replace_directory(out, contents=BUNDLE_FILES)``.
        record: its ``files`` are computed here, whatever it says.
        golden: the model's answers.
    """
    save_golden(folder / GOLDEN_FILE, golden)
    present = [name for name in BUNDLE_FILES if name != RECORD_FILE and (folder / name).is_file()]
    files = {name: sha256_file(folder / name) for name in present}
    BUNDLE.write(folder / RECORD_FILE, replace(record, files=files))


def bundle_sha256(path: Path) -> str:
    """The SHA-256 that plans, tables and engines know a bundle by: of its record."""
    return sha256_file(path / RECORD_FILE)


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle and check that its files are those its record speaks of.

    Raises:
        BadArtifact: not a bundle, of a newer schema, or one with parts outside its directory.
        StaleArtifact: a file was changed after the record was written.

    Examples:
        >>> from segclip_deploy import load_bundle
        >>> bundle = load_bundle("dubai")
        >>> bundle.input.sides, bundle.outputs
        ('(1, 512, 512, 3)', ('labels',))
        >>> bundle.vocabulary.names
        ('building', 'land', 'road', 'vegetation', 'water')
    """
    path = Path(path)
    place, remedy = path / RECORD_FILE, command("segclip-deploy", "export", "CKPT", "-o", path)
    if not place.is_file():
        raise BadArtifact(f"not a bundle (no {RECORD_FILE})", where=path, fix=remedy)
    text = place.read_bytes()  # once: what is hashed is what is read
    data = parse_json(text, where=place)
    if data.get("quantization") or data.get("dialect"):  # "dialect" in schema 1
        remedy = _quantize_command(data, path)
    record = BUNDLE.parse(data, where=place, fix=remedy)
    models = [MODEL_FILES[one] for one in record.lowerings or (Lowering.CPU,)]
    for name in dict.fromkeys((*models, GOLDEN_FILE, *record.files)):
        _check_place(path, name)
        check_file(path / name, record.files.get(name), place, fix=remedy)
    for name in models:
        check_self_contained(path / name)
    return Bundle(path, record, hashlib.sha256(text).hexdigest(), record.lowerings[0])


def _quantize_command(data: Mapping[str, Any], path: Path) -> str:
    """How a quantized bundle is made anew, by a record of any schema, or a damaged one."""
    precision, quantization = data.get("precision"), data.get("quantization")
    done = quantization if isinstance(quantization, dict) else {"scheme": data.get("dialect")}
    scheme, placement = done.get("scheme"), done.get("placement")
    table = [] if precision == "fp16" else ["--table", "TABLE"]
    if placement == "modelopt":
        table += ["--placement", "modelopt", "--tiles", "DIR"]
    return command("segclip-deploy", "quantize", "FP32_BUNDLE", "--scheme", scheme or "SCHEME",
                   "--precision", precision or "int8", *table, "-o", path)  # fmt: skip


def _check_place(bundle: Path, name: str) -> None:
    """Accept a file of a bundle that lies in it: neither its name nor a link leads out.

    Raises:
        BadArtifact: one leads out.
    """
    real = Path(os.path.realpath(bundle / name))
    if name not in BUNDLE_FILES or real.parent != Path(os.path.realpath(bundle)):
        raise BadArtifact(
            f"its file {name!r} is none of a bundle, or lies outside it",
            where=bundle,
            fix="copy the bundle's files into one directory",
        )
