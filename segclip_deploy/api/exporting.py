"""Export: ``export`` and ``set-texts``, which end in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy._optional import require
from segclip_deploy.api._arguments import TORCH_DEVICES, AnyPath, check_choice, optional_path
from segclip_deploy.api.preparing import code_runs
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.artifacts.bundle import Bundle
    from segclip_deploy.artifacts.engine import Engine
    from segclip_deploy.artifacts.input_spec import InputSpec

__all__ = ["export", "set_texts"]


def export(
    checkpoint: AnyPath,
    *,
    out: AnyPath,
    size: tuple[int, int] | None = None,
    frame: tuple[int, int] | tuple[int, int, int] | None = None,
    model: str | None = None,
    batch: int | tuple[int, int] = 1,
    margin: bool = False,
    logits: bool = False,
    for_: str | None = None,
    tiles: AnyPath | None = None,
    device: str = "cpu",
    calibrate_confidence: AnyPath | None = None,
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    ignore_alpha: bool = False,
    report: Report = silent,
) -> Bundle:
    """Export a checkpoint to ONNX with the text inside, and prove it equal to PyTorch.

        bundle = api.export("dubai.safetensors", out="fp32", size=(512, 512))
        bundle.record.parity[0].label_agreement

        bundle = api.export("dubai.safetensors", out="fp32", logits=True, calibrate_confidence="dubai")
        bundle.record.temperature.value

        bundle = api.export("dubai.safetensors", out="fp32", frame=(1600, 900))
        bundle.input.height, bundle.input.width, bundle.input.overlap

    Args:
        checkpoint: from ``train`` or ``import_``.
        out: the bundle directory to write.
        size: (height, width) of the input, pixels; by default 512 × 512.
        frame: (width, height) of a camera's frames, in the order that cameras say it, and what
            windows share at least, by default 128 pixels: in place of ``size``, the window that
            computes the fewest pixels for them. ``report`` is told it, its waste, and what others would
            compute. The bundle keeps the overlap, and engines of it fly with it.
        model: your own network, ``package.module:function``. Its code is run.
        batch: images an inference; (least, most) takes any number between.
        margin: also output how clear each decision is, 0 to 255 at stride 4.
        logits: also output logits, so that windows are blended and not cropped.
        for_: ``"cpu"`` or ``"nvidia"``: the bundle holds the graph for these engines alone. By default it
            holds both, and each target and scheme takes its own.
        tiles: images to prove parity on; by default those that the checkpoint carries.
        device: that PyTorch computes parity, and a temperature, on: ``"cpu"``, ``"cuda"``, or ``"auto"``: the
            GPU where it finds one. The bundle runs in ONNX Runtime on the CPU.
        calibrate_confidence: a dataset; on its split ``plan``, or its only one, a temperature is fitted that
            all logits are divided by. No label changes but for ties, margins do.
        layout: of that dataset: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands: which bands of its images are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        ignore_alpha: an alpha band takes no pixel away.
        report: told what goes on.

    Raises:
        UsageError: ``size`` and ``frame``; or options of a dataset without ``calibrate_confidence``.
        BadArtifact: the checkpoint cannot be read.
        BadInput: a size or batch that the model does not take, a frame that no window fits, or a dataset that
            no temperature can be fitted on.
        GateFailed: the exported model computes something else; nothing is written.
        MissingDependency: no torch or onnx, or no GPU for ``device="cuda"``.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    check_choice("--device", device, TORCH_DEVICES)
    check_choice("--for", for_, [lowering.value for lowering in Lowering])
    require("torch", why="export")
    from segclip_deploy.artifacts.bundle import InputSpec
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.export.export import export_bundle
    from segclip_deploy.model.checkpoint import load_checkpoint
    from segclip_deploy.model.compute import choose_device
    from segclip_deploy.runtime.io.raster.source import Reading

    if size is not None and frame is not None:
        raise UsageError("--size and --frame both choose the window; give one of them")
    least, most = batch if isinstance(batch, tuple) else (None, batch)
    height, width = size or (512, 512)
    spec = InputSpec(height=height, width=width, batch=most, min_batch=least)
    if frame is not None:
        spec = _fitted(frame, most, least, report)
    reading, data = Reading(bands, scale, ignore_alpha=ignore_alpha), None
    if calibrate_confidence is not None:
        vocabulary = load_checkpoint(Path(checkpoint)).vocabulary
        data = open_dataset(
            calibrate_confidence,
            vocabulary,
            layout=layout,
            mask_suffix=mask_suffix,
            reading=reading,
        )
    elif layout or mask_suffix or reading.given:
        option = "--layout" if layout else "--mask-suffix" if mask_suffix else reading.given[0]
        raise UsageError(f"{option} goes with --calibrate-confidence")
    if model is not None:
        saying(report)(code_runs(model))
    return export_bundle(
        Path(checkpoint),
        Path(out),
        spec=spec,
        model=model,
        margin=margin,
        logits=logits,
        lowerings=tuple(Lowering) if for_ is None else (Lowering(for_),),
        tiles=optional_path(tiles),
        device=choose_device(device),
        confidence=data,
        report=report,
    )


def _fitted(
    frame: tuple[int, int] | tuple[int, int, int], most: int, least: int | None, report: Report
) -> InputSpec:
    """The window that fits a camera's frames; ``report`` is told what was to be chosen from."""
    from segclip_deploy.runtime.inference.window_fit import (
        FITTED_OVERLAP,
        describe_fit,
        fit_windows,
    )

    width, height = frame[:2]
    overlap = frame[2] if len(frame) == 3 else FITTED_OVERLAP
    grids = fit_windows((height, width), overlap=overlap, batch=most, min_batch=least)
    for line in describe_fit(grids):
        saying(report)(line)
    return grids[0].input


def set_texts(
    artefact: AnyPath,
    *,
    text: str | None = None,
    vocabulary: str | None = None,
    out: AnyPath | None = None,
    bundle: AnyPath | None = None,
) -> Bundle | Engine:
    """Fold other class texts into a bundle, without torch; or refit an engine with a bundle's.

    How accurate a model is on new classes is for you to measure.

        api.set_texts("fp32", text="roads.npz", out="fp32-roads")
        api.set_texts("dubai.engine", bundle="fp16-roads")

    Args:
        artefact: a bundle; or an engine that was built with ``--refittable``.
        text: for a bundle: a text bank (.npz, .safetensors), or ``open_clip:MODEL@WEIGHTS``.
        vocabulary: for a bundle: the new classes; by default their names stay.
        out: for a bundle: the bundle directory to write.
        bundle: for an engine: the bundle with the new texts.

    Returns:
        the new bundle, or the refitted engine.

    Raises:
        UsageError: arguments that do not go together.
        BadInput: other numbers of classes or texts, or an engine that cannot be refitted.
        GateFailed: the result failed its verification; what was there stays.
    """
    from segclip_deploy.artifacts.bundle import load_bundle

    if bundle is not None and not (text or vocabulary or out):
        from segclip_deploy.artifacts.engine import load_engine
        from segclip_deploy.runtime.build_engine import refit_engine

        return refit_engine(load_engine(Path(artefact)), load_bundle(bundle))
    if text is None or out is None or bundle is not None:
        raise UsageError("a BUNDLE takes --text and -o, an ENGINE takes --bundle")
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.export.set_texts import set_texts as set_in
    from segclip_deploy.model.text import load_text_bank

    old = load_bundle(artefact)
    classes = load_vocabulary(vocabulary) if vocabulary else old.vocabulary
    return set_in(old, load_text_bank(text, classes), Path(out), vocabulary=classes)
