"""The verbs of the command line as functions, with the same names and the same parameters.

    from segclip_deploy import api

    api.export("dubai.safetensors", out="fp32")
    api.build_engine("fp32", out="dubai.ov.onnx")
    print(api.evaluate("dubai.ov.onnx", "dubai").miou)

An option ``--max-miou-drop`` is the parameter ``max_miou_drop``, in the same unit. What Python keeps
for itself ends with an underscore: ``import_``, ``from_``. Every verb returns a frozen result with
``to_json()``, which is what ``--json`` prints, raises a ``SegclipError`` of one line, and prints
nothing: ``report`` is told how far it is.

Everything is imported at first use, so that importing this is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segclip_deploy.api._arguments import FLIGHT_ONLY
    from segclip_deploy.api.benchmarking import benchmark
    from segclip_deploy.api.building import build_engine, verify
    from segclip_deploy.api.compacting import compact
    from segclip_deploy.api.exporting import export, set_texts
    from segclip_deploy.api.flying import run
    from segclip_deploy.api.looking import dataset, doctor, inspect
    from segclip_deploy.api.mapping import map
    from segclip_deploy.api.measuring import compare, evaluate, profile
    from segclip_deploy.api.onboard import ros
    from segclip_deploy.api.preparing import import_, list_keys, train
    from segclip_deploy.api.quantizing import calibrate, plan, quantize, smooth
    from segclip_deploy.api.reporting import report
    from segclip_deploy.api.serving import service
    from segclip_deploy.artifacts.bundle import Bundle
    from segclip_deploy.artifacts.bundle_record import BlockCost, BlockMacs, BundleRecord
    from segclip_deploy.artifacts.checkpoint_record import Training
    from segclip_deploy.artifacts.engine import Engine
    from segclip_deploy.artifacts.engine_record import EngineRecord, Search, Verification
    from segclip_deploy.artifacts.latency_table import LatencyTable, ProbeSet
    from segclip_deploy.artifacts.model_spec import ModelSpec
    from segclip_deploy.artifacts.precision_share import PrecisionShare
    from segclip_deploy.artifacts.scheme import PLACERS, PRECISIONS, Placer, Precision, Scheme
    from segclip_deploy.artifacts.vocabulary import Vocabulary
    from segclip_deploy.calibration.methods import METHOD_NAMES, Method
    from segclip_deploy.calibration.table import CalibrationTable
    from segclip_deploy.cluster.map_folder import MapResult
    from segclip_deploy.evaluation.choices import LAYOUT_NAMES, PROTOCOL_NAMES
    from segclip_deploy.evaluation.confidence import Confidence
    from segclip_deploy.evaluation.evaluate import Evaluation
    from segclip_deploy.evaluation.survey import DatasetReport
    from segclip_deploy.model.checkpoint import CheckpointFacts
    from segclip_deploy.model.convert import KeyReport
    from segclip_deploy.model.torch_file import KeyList
    from segclip_deploy.planning.planner import Planned
    from segclip_deploy.progress import Report
    from segclip_deploy.runtime.doctor import Machine
    from segclip_deploy.runtime.profiling.compare import Comparison
    from segclip_deploy.runtime.profiling.mode_switch import POWER_COMMAND
    from segclip_deploy.runtime.profiling.record import ProfileRecord
    from segclip_deploy.runtime.ros.node.node_result import NodeResult
    from segclip_deploy.runtime.service.unit import ServiceUnit
    from segclip_deploy.runtime.streaming.result import RunResult, RunStopped
    from segclip_deploy.tradeoff.benchmark import Benchmark
    from segclip_deploy.tradeoff.board_folder import BoardFolder
    from segclip_deploy.tradeoff.joined import JoinedRow
    from segclip_deploy.tradeoff.joined_report import JoinedReport
    from segclip_deploy.tradeoff.row import Row
    from segclip_deploy.tradeoff.sweep import Steps
    from segclip_deploy.training.compact_result import Compacted, CompactNetwork

_HOMES = {
    "api._arguments": ("FLIGHT_ONLY",),
    "api.benchmarking": ("benchmark",),
    "api.building": ("build_engine", "verify"),
    "api.compacting": ("compact",),
    "api.exporting": ("export", "set_texts"),
    "api.flying": ("run",),
    "api.looking": ("dataset", "doctor", "inspect"),
    "api.mapping": ("map",),
    "api.measuring": ("compare", "evaluate", "profile"),
    "api.onboard": ("ros",),
    "api.serving": ("service",),
    "api.preparing": ("import_", "list_keys", "train"),
    "api.quantizing": ("calibrate", "plan", "quantize", "smooth"),
    "api.reporting": ("report",),
    "artifacts.bundle": ("Bundle",),
    "artifacts.bundle_record": ("BlockCost", "BlockMacs", "BundleRecord"),
    "artifacts.checkpoint_record": ("Training",),
    "artifacts.engine": ("Engine",),
    "artifacts.engine_record": ("EngineRecord", "Search", "Verification"),
    "artifacts.latency_table": ("LatencyTable", "ProbeSet"),
    "artifacts.model_spec": ("ModelSpec",),
    "artifacts.precision_share": ("PrecisionShare",),
    "artifacts.scheme": ("PLACERS", "PRECISIONS", "Placer", "Precision", "Scheme"),
    "artifacts.vocabulary": ("Vocabulary",),
    "calibration.methods": ("METHOD_NAMES", "Method"),
    "calibration.table": ("CalibrationTable",),
    "cluster.map_folder": ("MapResult",),
    "evaluation.choices": ("LAYOUT_NAMES", "PROTOCOL_NAMES"),
    "evaluation.confidence": ("Confidence",),
    "evaluation.evaluate": ("Evaluation",),
    "evaluation.survey": ("DatasetReport",),
    "model.checkpoint": ("CheckpointFacts",),
    "model.convert": ("KeyReport",),
    "model.torch_file": ("KeyList",),
    "planning.planner": ("Planned",),
    "progress": ("Report",),
    "runtime.doctor": ("Machine",),
    "runtime.profiling.compare": ("Comparison",),
    "runtime.profiling.mode_switch": ("POWER_COMMAND",),
    "runtime.profiling.record": ("ProfileRecord",),
    "runtime.ros.node.node_result": ("NodeResult",),
    "runtime.service.unit": ("ServiceUnit",),
    "runtime.streaming.result": ("RunResult", "RunStopped"),
    "tradeoff.benchmark": ("Benchmark",),
    "tradeoff.board_folder": ("BoardFolder",),
    "tradeoff.joined": ("JoinedRow",),
    "tradeoff.joined_report": ("JoinedReport",),
    "tradeoff.row": ("Row",),
    "tradeoff.sweep": ("Steps",),
    "training.compact_result": ("CompactNetwork", "Compacted"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "FLIGHT_ONLY",
    "LAYOUT_NAMES",
    "METHOD_NAMES",
    "PLACERS",
    "POWER_COMMAND",
    "PRECISIONS",
    "PROTOCOL_NAMES",
    "Benchmark",
    "BlockCost",
    "BlockMacs",
    "BoardFolder",
    "Bundle",
    "BundleRecord",
    "CalibrationTable",
    "CheckpointFacts",
    "CompactNetwork",
    "Compacted",
    "Comparison",
    "Confidence",
    "DatasetReport",
    "Engine",
    "EngineRecord",
    "Evaluation",
    "JoinedReport",
    "JoinedRow",
    "KeyList",
    "KeyReport",
    "LatencyTable",
    "Machine",
    "MapResult",
    "Method",
    "ModelSpec",
    "NodeResult",
    "Placer",
    "Planned",
    "Precision",
    "PrecisionShare",
    "ProbeSet",
    "ProfileRecord",
    "Report",
    "Row",
    "RunResult",
    "RunStopped",
    "Scheme",
    "Search",
    "ServiceUnit",
    "Steps",
    "Training",
    "Verification",
    "Vocabulary",
    "benchmark",
    "build_engine",
    "calibrate",
    "compact",
    "compare",
    "dataset",
    "doctor",
    "evaluate",
    "export",
    "import_",
    "inspect",
    "list_keys",
    "map",
    "plan",
    "profile",
    "quantize",
    "report",
    "ros",
    "run",
    "service",
    "set_texts",
    "smooth",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"segclip_deploy.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
