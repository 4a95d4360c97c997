"""The API and the command line say the same, and every verb works more than once in a process."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

import segclip_deploy
from segclip_deploy import api
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import UsageError
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.text import save_text_bank
from tests.conftest import EXAMPLE
from tests.support.fakes import random_bank
from tests.support.helpers import commands
from tests.support.latency import table_of_another_machine
from tests.support.rasters import noise, write_raster

VERBS = {name.replace("-", "_"): command for name, command in commands().items()}
VERBS["import_"] = VERBS.pop("import")
CLI = Path(segclip_deploy.__file__).parent / "cli"
# --json and --print print a result; import --list is api.list_keys
OF_THE_COMMAND = {"as_json", "list_keys", "shown"}
OF_THE_CALL = {"report", "stop"}  # the command line shows progress and hears signals itself


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_and_its_command_have_the_same_parameters_and_defaults(verb: str) -> None:
    command, function = VERBS[verb], getattr(api, verb)
    signature = inspect.signature(function).parameters
    options = {p.name: p for p in command.params if p.name not in OF_THE_COMMAND}
    assert set(options) == set(signature) - OF_THE_CALL
    for name, value in command.make_context(verb, list(_required(command))).params.items():
        if name in options and not options[name].required:
            assert (value or None) == (signature[name].default or None), name
        elif name in options:
            assert signature[name].default is inspect.Parameter.empty, name


BOUNDED = [
    (verb, parameter)
    for verb, command in VERBS.items()
    for parameter in command.params
    if isinstance(parameter.type, click.IntRange | click.FloatRange | click.Choice)
]


@pytest.mark.parametrize(
    ("verb", "parameter"), BOUNDED, ids=[f"{verb}-{parameter.name}" for verb, parameter in BOUNDED]
)
def test_a_value_that_the_command_refuses_is_refused_in_python(
    verb: str, parameter: click.Parameter
) -> None:
    kind = parameter.type
    bad: list[object] = ["no such word"]
    if isinstance(kind, click.IntRange | click.FloatRange):
        bounds = ((kind.min, -1, kind.min_open), (kind.max, 1, kind.max_open))
        bad = [b if shut else b + step for b, step, shut in bounds if b is not None]
    needed = {p.name: "x" for p in VERBS[verb].params if p.required}
    for value in bad:
        given = {**needed, parameter.name: (value,) if parameter.multiple else value}
        with pytest.raises(UsageError, match=rf"^{parameter.opts[0]}: |^no scheme"):
            getattr(api, verb)(**given)


TARGETED = [verb for verb in VERBS if "target" in inspect.signature(getattr(api, verb)).parameters]


@pytest.mark.parametrize("verb", TARGETED)
def test_an_unknown_target_is_refused_with_those_there_are(verb: str) -> None:
    needed = {p.name: "x" for p in VERBS[verb].params if p.required}
    with pytest.raises(UsageError, match=r"^--target: 'tensorr' is not one of tensorrt, "):
        getattr(api, verb)(**needed, target="tensorr")


def _required(command: click.Command) -> Iterator[str]:
    """A command line of nothing but what it must have."""
    for parameter in command.params:
        if parameter.required and isinstance(parameter, click.Option):
            yield parameter.opts[0]
        if parameter.required:
            choices = getattr(parameter.type, "choices", ["x"])
            yield str(choices[0])


def test_every_verb_of_the_api_is_a_command() -> None:
    verbs = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    assert verbs - {"list_keys"} == set(VERBS)
    assert set(dir(api)) == set(api.__all__)


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_imports_the_api_and_what_prints(path: Path) -> None:
    allowed = {"segclip_deploy", "segclip_deploy.errors"}
    for module, names in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        if module in allowed:
            assert module != "segclip_deploy" or set(names) <= {"api", "__version__"}
        elif module.startswith("segclip_deploy"):
            assert module.startswith("segclip_deploy.cli")
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "api"
    }
    assert len(calls - {"list_keys"}) <= 1


def _imports(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level
            yield node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


@pytest.mark.long
def test_every_verb_works_twice_in_one_process(
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    tiny_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = _dataset(tmp_path / "data")
    raster = write_raster(tmp_path / "raster.tif", noise(80, 120))
    bank, spec = tmp_path / "bank.safetensors", tmp_path / "spec.yaml"
    weights, norms = tmp_path / "weights.pth", tmp_path / "norms"
    latency = tmp_path / "latency.json"
    LATENCY_TABLE.write(latency, table_of_another_machine(tiny_checkpoint))
    save_text_bank(bank, random_bank(0))
    spec.write_text(json.dumps(load_checkpoint(tiny_checkpoint).spec.to_json()))
    torch.save(load_checkpoint(tiny_checkpoint).weights, weights)
    text = {"vocabulary": "dubai", "text": str(bank)}

    def trained(out: Path) -> object:
        return api.train(data, **text, out=out / "c.safetensors", steps=1, crop=64, batch=2,
                         width=32, encoder="timm:test_convnext", imagenet=False, threads=1)  # fmt: skip

    def smoothed(out: Path) -> object:
        if not norms.exists():
            checkpoint = tmp_path / "train" / "first" / "c.safetensors"
            api.export(checkpoint, out=norms, size=(64, 96), for_="cpu")
        return api.smooth(norms, tiles=EXAMPLE / "images", out=out / "b", select=16)

    # On a machine with a sensor a sweep would warm up for a minute, at least.
    monkeypatch.setattr("segclip_deploy.tradeoff.measure_points.WARM_UP_SECONDS", 0.0)

    def flown(out: Path) -> object:
        result = api.run(tiny_bundle, data / "images", out=out / "labels")
        assert result.complete
        assert result.summary.done == 4
        return result

    ended = Event()
    ended.set()

    def profiles() -> list[Path]:
        return [tmp_path / "profile" / turn / "profile.json" for turn in ("first", "second")]

    calls: dict[str, Callable[[Path], object]] = {
        "train": trained,
        "import_": lambda out: api.import_(weights, spec=spec, **text, out=out / "c.safetensors"),
        "compact": lambda out: api.compact(
            tiny_checkpoint, dataset=data, out=out / "c.safetensors", size=(64, 64), crop=64, batch=2,
            latency=latency, speed_up=1.2, steps=1, rounds=1, threads=1,
        ),
        "list_keys": lambda _: api.list_keys(weights),
        "export": lambda out: api.export(tiny_checkpoint, out=out / "b", size=(64, 96), for_="cpu"),
        "set_texts": lambda out: api.set_texts(tiny_bundle, text=str(bank), out=out / "b"),
        "smooth": smoothed,
        "calibrate": lambda out: api.calibrate(
            tiny_bundle, tiles=EXAMPLE / "images", out=out / "t.json", select=16, eval=data
        ),
        "plan": lambda out: api.plan(
            tiny_bundle, table=tiny_table, eval=data, out=out / "p.yaml", scheme="tensorrt",
            max_miou_drop=100,
        ),
        "quantize": lambda out: api.quantize(
            tiny_bundle, out=out / "b", scheme="tensorrt", precision="fp16"
        ),
        "build_engine": lambda out: api.build_engine(tiny_bundle, out=out / "e.ort.onnx"),
        "verify": lambda _: api.verify(tiny_bundle),
        "run": flown,
        "service": lambda out: api.service(tiny_bundle, "/dev/video0", out=out, keep=10**9),
        "ros": lambda _: api.ros(tiny_bundle, image="/camera", stop=ended),
        "map": lambda out: api.map(raster, engine=tiny_bundle, out=out / "labels"),
        "evaluate": lambda _: api.evaluate(tiny_bundle, data),
        "profile": lambda out: api.profile(tiny_bundle, out=out, samples=10),
        "compare": lambda _: api.compare(*profiles(), force=True),
        "benchmark": lambda out: api.benchmark(
            tiny_bundle, eval=data, out=out / "r", precision=("fp32",), target=("onnxruntime",),
            samples=10,
        ),
        "report": lambda out: api.report(
            tmp_path / "benchmark" / out.name / "r", out=out / "joined.html"
        ),
        "dataset": lambda out: api.dataset(data, vocabulary="dubai", sheet=out / "s.png"),
        "inspect": lambda _: api.inspect(tiny_checkpoint),
        "doctor": lambda _: api.doctor(),
    }  # fmt: skip
    assert set(calls) == {*VERBS, "list_keys"}
    if find_spec("rclpy") is None:
        del calls["ros"]
    for verb, call in calls.items():
        for turn in ("first", "second"):
            out = tmp_path / verb / turn
            out.mkdir(parents=True)
            result: Any = call(out)
            with pytest.raises((AttributeError, TypeError)):  # it is frozen
                result.path = out
            json.dumps(result.to_json(), allow_nan=False)


def _dataset(root: Path) -> Path:
    """Four crops of real images, of pixels that no tile of these images has, with random masks."""
    rng, values = np.random.default_rng(0), [e.mask_value for e in load_vocabulary("dubai").classes]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index, source in enumerate(sorted((EXAMPLE / "images").iterdir())):
        with Image.open(source) as image:
            image.crop((7, 7, 7 + 192, 7 + 128)).save(root / "images" / f"{index}.png")
        mask = rng.choice(values, (128, 192)).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    split = {"train": ["0", "1"], "plan": ["2"], "val": ["3"]}
    (root / "split.json").write_text(json.dumps(split))
    return root
