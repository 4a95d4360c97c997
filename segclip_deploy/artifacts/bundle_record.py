"""What ``bundle.json`` says: the graph, where it comes from, and what was proven of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.scheme import Lowering, Placer, Precision, Scheme
from segclip_deploy.artifacts.vocabulary import Vocabulary

__all__ = [
    "BUNDLE",
    "MODEL_FILES",
    "BlockCost",
    "BlockMacs",
    "BundleRecord",
    "Calibration",
    "ConfidenceScores",
    "Parents",
    "Parity",
    "PlannedOperator",
    "Quality",
    "Quantization",
    "Smoothing",
    "TemperatureFit",
    "TextChange",
    "TrainedText",
]


MODEL_FILES = {Lowering.CPU: "model.onnx", Lowering.NVIDIA: "model.nvidia.onnx"}
"""The files of a bundle's graphs. A bundle in a lower precision has one, of its scheme."""


class Parents(Record, frozen=True):
    """SHA-256 of the files that a bundle was made from.

    Attributes:
        checkpoint: the model's.
        whole: the checkpoint that the model was compacted from; None where nothing was pruned.
        bundle: of the record of the bundle before this one; None right after ``export``.
        table: digest of the calibration table; None without INT8.
    """

    checkpoint: str
    whole: str | None = None
    bundle: str | None = None
    table: str | None = None


class Parity(Record, frozen=True):
    """How far an engine is from its reference.

    Attributes:
        reference, engine: what was compared.
        tiles: how many images.
        max_logit_error, mean_logit_error: absolute, in logits.
        label_agreement: share of pixels with equal labels.
        flips: pixels whose label differs, by the reference's class.
    """

    reference: str
    engine: str
    tiles: int
    max_logit_error: float
    mean_logit_error: float
    label_agreement: float
    flips: Mapping[str, int]


class BlockMacs(Record, frozen=True):
    """What folding the text saves in one block, per image.

    Attributes:
        block: its name in the model.
        plain: MACs with the text embeddings as constants; what depends on them alone is free.
        folded: MACs with the text folded in.
    """

    block: str
    plain: int
    folded: int

    @property
    def pays(self) -> bool:
        """Whether the folded form is the cheaper one, and so the one that is exported."""
        return self.folded < self.plain

    @property
    def exported(self) -> Literal["folded", "plain"]:
        """The form that is exported."""
        return "folded" if self.pays else "plain"


class BlockCost(Record, frozen=True):
    """What one block of a graph holds and costs.

    Attributes:
        block: its name.
        parameters: elements of the floating-point constants that it is the first to read.
        macs: multiply-accumulates of its convolutions and matrix products, for one image.
        precision: what they are computed in.
    """

    block: str
    parameters: int
    macs: int
    precision: Precision


class Calibration(Record, frozen=True):
    """Where the ranges of INT8 come from.

    Attributes:
        method: how a range was chosen from what was measured: one of ours, or modelopt's ``max``.
        tiles: how many were measured.
        appearance: of all that these were chosen from; None where nobody looked, or all were of one image.
    """

    method: str
    tiles: int
    appearance: Appearance | None = None


class Quality(Record, frozen=True):
    """How far a quantized model is from its FP32 parent, on the golden tiles.

    Attributes:
        label_agreement: share of pixels with FP32's label.
        reference_agreement: share of pixels with equal labels, with FP16 rounded and without.
        logit_sqnr_db: signal to quantization noise of the logits, dB.
        flips: pixels whose label differs from FP32's, by FP32's class.
    """

    label_agreement: float
    reference_agreement: float
    logit_sqnr_db: float
    flips: Mapping[str, int]


class PlannedOperator(Record, frozen=True):
    """A convolution or matrix product of a graph, and what it is to be computed in.

    Attributes:
        macs: multiply-accumulates, for one image.
        precision: that was written for it.
    """

    macs: int
    precision: Precision


class Quantization(Record, frozen=True):
    """How precision was written into a model, and what that did to it.

    Attributes:
        scheme: for whose kernels.
        placement: who placed Q/DQ and measured its ranges; modelopt's version is in the record's ``tools``.
        plan: precision by block.
        int8_macs: share of the multiply-accumulates that is INT8, 0–1.
        fp32_fallback: nodes that stay FP32 in blocks of a lower precision, and why.
        calibration: of INT8; None without.
        quality: measured when it was written.
        operators: by name of their node in the ONNX file; None in bundles before schema 5, which do not
            tell.
    """

    scheme: Scheme
    placement: Placer
    plan: Mapping[str, Precision]
    int8_macs: float
    fp32_fallback: Mapping[str, str]
    calibration: Calibration | None
    quality: Quality
    operators: Mapping[str, PlannedOperator] | None = None


class Smoothing(Record, frozen=True):
    """What SmoothQuant did.

    Attributes:
        alpha: how much of the outlier channels moved into the weights, above 0 and below 1.
        norms: LayerNorms that were smoothed.
        tiles: how many were measured.
    """

    alpha: float
    norms: int
    tiles: int


class ConfidenceScores(Record, frozen=True):
    """How well probabilities of the best class match how often it is right.

    Attributes:
        ece: expected calibration error, 0–1, over 15 bins of equal width.
        nll: mean of −ln p(ground truth), nats.
    """

    ece: float
    nll: float


class TemperatureFit(Record, frozen=True):
    """Temperature scaling: the one number that all logits are divided by (Guo et al., ICML 2017).

    Attributes:
        value: of the temperature; above 1 the model was too sure of itself.
        dataset, split, images: what it was fitted on.
        pixels: how many, drawn from these images; ``before`` and ``after`` are measured on them.
        before: with the logits as they were trained.
        after: with the logits divided.
    """

    value: float
    dataset: str
    split: str
    images: tuple[str, ...]
    pixels: int
    before: ConfidenceScores
    after: ConfidenceScores


class TrainedText(Record, frozen=True):
    """The classes and the text encoder that a model was trained with."""

    vocabulary: Vocabulary
    text_encoder: str


class TextChange(Record, frozen=True):
    """What ``set-texts`` changed.

    Attributes:
        accuracy: what is known of it with the new texts, for people.
        golden_labels_changed: share of the golden tiles' pixels whose label is another one, 0–1.
        trained: the first texts.
        tools: versions that folded the new texts in.
    """

    accuracy: str
    golden_labels_changed: float
    trained: TrainedText
    tools: Mapping[str, str]


class BundleRecord(Record, frozen=True):
    """What a bundle is and comes from.

    Attributes:
        input: of the graph.
        outputs: names of the graph's outputs, in order.
        precision: the lowest that is written into the model.
        opset: of the ONNX file.
        factory: ``package.module:function`` of a user's network; None for SegCLIP.
        model: rebuilds the network.
        vocabulary: classes, palette and texts.
        text_encoder: what embedded the texts.
        trained_for_int8: blocks whose weights were trained with the rounding.
        files: SHA-256 of the bundle's other files, by name; ``write_bundle`` computes them.
        parents: what it was made from.
        parity: the export against PyTorch, a smoothed bundle against the one before; empty where
            the texts are others than those that were measured.
        folding: what folding the text saves, by block.
        blocks: what each block holds and costs.
        tools: versions that made it.
        quantization: None in FP32.
        smoothing: None without SmoothQuant.
        texts: None where the texts are those of the training.
        temperature: of the logits; None where they are those of the training.
    """

    input: InputSpec
    outputs: tuple[str, ...]
    precision: Precision
    opset: int
    factory: str | None
    model: ModelSpec
    vocabulary: Vocabulary
    text_encoder: str
    trained_for_int8: tuple[str, ...]
    files: Mapping[str, str]
    parents: Parents
    parity: tuple[Parity, ...]
    folding: tuple[BlockMacs, ...]
    blocks: tuple[BlockCost, ...]
    tools: Mapping[str, str]
    quantization: Quantization | None = None
    smoothing: Smoothing | None = None
    texts: TextChange | None = None
    temperature: TemperatureFit | None = None

    @property
    def lowerings(self) -> tuple[Lowering, ...]:
        """Of the graphs that it holds."""
        return tuple(lowering for lowering, name in MODEL_FILES.items() if name in self.files)

    @property
    def scheme(self) -> Scheme | None:
        """How its precision was written; None for FP32."""
        return self.quantization.scheme if self.quantization else None

    @property
    def plan(self) -> Mapping[str, Precision] | None:
        """Precision by block; None where none was written."""
        return self.quantization.plan if self.quantization else None

    @property
    def appearance(self) -> Appearance | None:
        """Of the tiles that it was calibrated on; None where that is not known."""
        calibration = self.quantization and self.quantization.calibration
        return calibration.appearance if calibration else None


def _of_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """Gather what quantization had left at the top, and drop what follows from the MACs."""
    data["folding"] = [
        {name: block[name] for name in ("block", "plain", "folded")} for block in data["folding"]
    ]
    if scheme := data.pop("dialect", None):
        data["quantization"] = {
            "scheme": scheme,
            "plan": data.pop("plan"),
            "int8_macs": data.pop("int8_macs"),
            "fp32_fallback": data.pop("islands"),
            "calibration": data.pop("calibration"),
            "quality": data.pop("quality"),
        }
    return data


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    """Rename what ``set-texts`` changed, and the agreement with the reference run."""
    data = {**data, "texts": data.get("revocab")}
    data.pop("revocab", None)
    if done := data.get("quantization"):
        quality = dict(done["quality"])
        quality["reference_agreement"] = quality.pop("literal_agreement")
        data["quantization"] = {**done, "quality": quality}
    return data


def _of_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    """Say that logits are those of the training and that no overlap was planned: there was no choice.

    How the tiles of calibration look, nobody had seen.
    """
    return {**data, "temperature": None, "input": {**data["input"], "overlap": None}}


def _of_schema_4(data: dict[str, Any]) -> dict[str, Any]:
    """Say that nothing was pruned and that we placed Q/DQ ourselves: there was no choice.

    What each operator was planned in, nobody had written; so no engine tells what it kept.
    """
    if done := data.get("quantization"):
        data = {**data, "quantization": {**done, "placement": "own"}}
    return {**data, "model": {**data["model"], "channels": {}}}


BUNDLE = Format(
    "a bundle record",
    BundleRecord,
    schema=5,
    migrations={1: _of_schema_1, 2: _of_schema_2, 3: _of_schema_3, 4: _of_schema_4},
)
"""How ``bundle.json`` is written and read. An engine's record holds the same, dumped."""
