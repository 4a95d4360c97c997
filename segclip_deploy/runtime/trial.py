"""Open a model in a process of its own first: where a library crashes, only that process ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.onnx_part import TensorType, boundary, nodes, part
from segclip_deploy.errors import BadArtifact
from segclip_deploy.progress import Report
from segclip_deploy.runtime.child_python import run_child
from segclip_deploy.runtime.targets.base import BuildOptions, Settings, Target

__all__ = ["try_apart"]

_CHILD = """
import sys
target, model, first, end, settings = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, OSError, ValueError):
    pass
import json
from pathlib import Path
import numpy as np
from segclip_deploy.runtime.registry import TARGETS
batches = range(int(first), int(end))
with TARGETS[target].open(Path(model), batches=batches, **json.loads(settings)) as backend:
    backend.infer({spec.name: np.zeros(spec.shape, spec.dtype) for spec in backend.inputs})
    print(json.dumps({spec.name: [spec.dtype.name, spec.shape] for spec in backend.outputs}))
"""
_SIGKILL = 9


def try_apart(target: Target, bundle: Bundle, options: BuildOptions, report: Report) -> None:
    """Compile and run a bundle's model once for each kind of settings, in processes of their own.

    Whatever else goes wrong there will do so here, too, and be reported then. A crash is traced to
    the operator by halving: the first nodes of the graph that are enough for it.

    Raises:
        BadArtifact: the library crashes.
    """
    for settings in _kinds(target, bundle, options):
        trial = _Trial(target, bundle.input.batches, settings)
        died, _ = trial.run(bundle.model_path)
        if died == _SIGKILL:
            raise BadArtifact(
                f"{target.title} was killed while it compiled this model",
                where=bundle.path,
                fix="see to it that there is memory enough, and build again",
            )
        if died:
            raise BadArtifact(
                f"{target.title} crashes on this model ({_signal(died)}), "
                f"at {_culprit(trial, bundle.model_path, report)}",
                where=bundle.path,
                fix="write the network in other operators, or build for another target: "
                "segclip-deploy doctor lists them",
            )


@dataclass(frozen=True)
class _Trial:
    """How models are opened apart: by what, for which batches, with which settings."""

    target: Target
    batches: range
    settings: Settings

    def run(self, model: Path) -> tuple[int, Mapping[str, TensorType]]:
        """The signal that ended the process, 0 where none did; types of outputs, where it ran."""
        done = run_child(
            _CHILD,
            *(self.target.name, str(model)),
            *(str(self.batches.start), str(self.batches.stop)),
            json.dumps(dict(self.settings)),
        )
        if done.returncode == 0:
            told = json.loads(done.stdout.splitlines()[-1])
            return 0, {name: (dtype, tuple(shape)) for name, (dtype, shape) in told.items()}
        if done.returncode < 0:
            return -done.returncode, {}
        # Windows has no signals: there a crash is a status of the system's, in the upper half.
        return done.returncode if done.returncode > 1 << 30 else 0, {}


def _kinds(target: Target, bundle: Bundle, options: BuildOptions) -> Iterator[Settings]:
    """Settings that differ in more than how many threads they run on."""
    seen: list[Settings] = []
    for settings in target.candidates(bundle, options):
        kind = {name: value for name, value in settings.items() if name != "threads"}
        if kind not in seen:
            seen.append(kind)
            yield kind


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"status {number:#x}"


def _culprit(trial: _Trial, model: Path, report: Report) -> str:
    """The operators between which a library crashes: the fewest nodes, one after another, that do it."""
    graph = nodes(model)
    steps = 2 * len(graph).bit_length()
    done = 0
    with TemporaryDirectory() as folder:
        file = Path(folder) / "part.onnx"

        def crashes(first: int, last: int) -> bool:
            nonlocal done
            done += 1
            report("looking for the operator", min(done, steps), steps)
            given: Mapping[str, TensorType] = {}
            if first:  # what these nodes take, as those before them make it
                wanted = boundary(graph, first, last)
                file.write_bytes(part(model, 0, first, outputs=wanted))
                _, given = trial.run(file)
                if not given.keys() >= set(wanted):
                    return False
            try:
                file.write_bytes(part(model, first, last, inputs=given))
            except KeyError:
                return False
            return bool(trial.run(file)[0])

        last = _halve(0, len(graph), lambda count: crashes(0, count))
        first = last - _halve(0, last, lambda count: crashes(last - count, last))
        report("looking for the operator", steps, steps)
    ends = [graph[first], graph[last - 1]][: last - first]
    told = [f"{node.operator} ({node.name})" for node in ends]
    return f"the operator {told[0]}" if len(told) == 1 else f"the operators {' … '.join(told)}"


def _halve(least: int, most: int, enough: Callable[[int], bool]) -> int:
    """The smallest number that is enough, of which ``least`` is not and ``most`` is."""
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most
