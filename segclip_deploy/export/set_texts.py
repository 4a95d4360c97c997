"""``set-texts``: other class texts for an exported bundle, without torch and without tracing again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import (
    BUNDLE_FILES,
    GOLDEN_FILE,
    TEXT_FILE,
    Bundle,
    load_bundle,
    write_bundle,
)
from segclip_deploy.artifacts.bundle_record import TextChange, TrainedText
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.artifacts.golden import Golden, load_golden
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, GateFailed, command
from segclip_deploy.export.onnx_model import expose, load_model, save_model
from segclip_deploy.export.parity import answers_of
from segclip_deploy.export.text_weights import (
    TextWeights,
    bounded_levels,
    load_text_weights,
    text_constants,
)
from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import verify

__all__ = ["UNMEASURED", "set_texts"]

UNMEASURED = "unmeasured with these texts"
"""Score-map channels are concatenated by class index, so what a network learned of a class at
training stays at its index, whatever the new text says."""

_TOOLS = ("onnx", "onnxruntime", "numpy")


def set_texts(
    bundle: Bundle, bank: TextBank, out: Path, *, vocabulary: Vocabulary | None = None
) -> Bundle:
    """Fold other class texts into a bundle's graphs, and answer its golden tiles anew.

    Args:
        bundle: in FP32, with its text weights.
        bank: as many classes, of the same width; where the model refines queries by real texts,
            as many of those per class.
        out: the bundle directory; an older bundle there is replaced.
        vocabulary: what the classes are called from now on; None leaves their names.

    Returns:
        The new bundle. ``record.texts`` says what changed, and that its accuracy is unmeasured.

    Raises:
        BadArtifact: the bundle is quantized, or keeps no text apart.
        BadInput: the bank or the vocabulary does not fit the model.
        GateFailed: the new graph fails verification; nothing is written.
    """
    vocabulary = vocabulary or bundle.vocabulary
    text = _text_weights(bundle)
    _check_fit(bundle, text, bank, vocabulary)
    constants = text_constants(text, bank)
    _check_softmax(text, constants)
    with replace_directory(out, contents=BUNDLE_FILES) as temporary:
        graphs = [bundle.lowered(lowering) for lowering in bundle.lowerings]
        for graph in graphs:
            _write_model(graph, constants, temporary / graph.model_path.name)
        shutil.copyfile(bundle.path / TEXT_FILE, temporary / TEXT_FILE)
        old = load_golden(bundle.golden_path)
        new = _answer(temporary / bundle.model_path.name, old.tiles, bundle)
        parent = bundle.record
        trained = TrainedText(parent.vocabulary, parent.text_encoder)
        record = replace(
            parent,
            vocabulary=vocabulary,
            text_encoder=bank.encoder,
            parents=replace(parent.parents, bundle=bundle.sha256),
            parity=(),  # that was measured with other texts
            texts=TextChange(
                accuracy=UNMEASURED,
                golden_labels_changed=float((new.labels != old.labels).mean()),
                trained=parent.texts.trained if parent.texts else trained,
                tools={name: version(name) for name in _TOOLS},
            ),
        )
        write_bundle(temporary, record, new)
        # Verification has the last word, on the very files that are handed over.
        golden = load_golden(temporary / GOLDEN_FILE)
        for graph in graphs:
            onnx = temporary / graph.model_path.name
            with OnnxRuntimeBackend(onnx, batches=bundle.input.batches) as flown:
                verify(flown, golden, vocabulary.names).require(where=out)
    return load_bundle(out)


def _text_weights(bundle: Bundle) -> TextWeights:
    if bundle.precision != "fp32":
        raise BadArtifact(
            f"is quantized ({bundle.precision}), and its scales were chosen for the old texts",
            where=bundle.path,
            fix="set the texts of the FP32 bundle it was made from, then quantize that",
        )
    if bundle.text_path is None:
        again = command("segclip-deploy", "export", "CKPT", "-o", bundle.path)
        anew = "import its weights with the new text bank, and export that"
        kept = bundle.record.factory is None and bundle.record.model.cff_strides
        raise BadArtifact(
            f"holds no {TEXT_FILE}, from which new texts are folded in",
            where=bundle.path,
            fix=again if kept else anew,
        )
    return load_text_weights(bundle.text_path)


def _check_fit(bundle: Bundle, text: TextWeights, bank: TextBank, vocabulary: Vocabulary) -> None:
    """Refuse a bank or vocabulary of other sizes than the graph was made for."""
    classes, width = len(bundle.vocabulary.classes), text.arrays["adapter.project.weight"].shape[1]
    train = "train or import a model with these texts, and export it"
    if len(vocabulary.classes) != classes:
        raise BadInput(
            f"the model has {classes} classes, vocabulary {vocabulary.name!r} "
            f"{len(vocabulary.classes)}",
            where=bundle.path,
            fix=train,
        )
    sizes = {"classes": (classes, len(bank.classes)), "width": (width, bank.classes.shape[1])}
    if "refiner" in text.blocks:
        sizes["real texts per class"] = (text.texts, bank.texts.shape[1])
    for what, (wanted, given) in sizes.items():
        if given != wanted:
            fix = f"give {wanted} real texts per class" if "texts" in what else train
            raise BadInput(
                f"the model takes a text bank of {what} {wanted}, this one has {given}",
                where=bundle.path,
                fix=fix,
            )


def _check_softmax(text: TextWeights, constants: Mapping[str, NDArray[Any]]) -> None:
    """Refuse texts whose scores may overflow where the graph takes exp() without a maximum."""
    if unsafe := text.bounded - bounded_levels(constants):
        raise BadInput(
            f"these texts give scores too large for the softmax that {min(unsafe)} was exported with",
            where="--text",
            fix="import the weights with this text bank, and export that",
        )


def _write_model(bundle: Bundle, constants: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write the bundle's model with other ``text.*``, which must be exactly those it has."""
    require("onnx", why="set-texts")
    import onnx

    model = onnx.load(bundle.model_path)
    held = {i.name: i for i in model.graph.initializer if i.name.startswith("text.")}
    shapes = {name: tuple(initializer.dims) for name, initializer in held.items()}
    if shapes != {name: array.shape for name, array in constants.items()}:
        raise BadArtifact(
            f"{bundle.model_path.name} and {TEXT_FILE} do not belong together",
            where=bundle.path,
            fix=command("segclip-deploy", "export", "CKPT", "-o", bundle.path),
        )
    for name, array in constants.items():
        held[name].CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, path)


def _answer(model: Path, tiles: NDArray[np.uint8], bundle: Bundle) -> Golden:
    """Labels and logits of tiles, in ONNX Runtime.

    Raises:
        GateFailed: a logit is not finite.
    """
    exposed = load_model(model)
    expose(exposed, "logits")
    with TemporaryDirectory() as folder:
        path = Path(folder) / model.name
        save_model(exposed, path)
        with OnnxRuntimeBackend(path, batches=bundle.input.batches) as backend:
            answers = answers_of(backend, tiles)
    if not np.isfinite(answers.logits).all():
        raise GateFailed("with these texts some logits are not finite", where="--text")
    return answers
