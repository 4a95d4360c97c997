"""Checkpoints as people have them: where the weights lie, and what else is in the file."""

from __future__ import annotations

import argparse
import json
import runpy
import shlex
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.convert import KeyReport, import_weights
from tests.conftest import ROOT
from tests.support.helpers import call

State = dict[str, Tensor]


@pytest.fixture
def good(tiny_checkpoint: Path) -> State:
    return dict(load_checkpoint(tiny_checkpoint).weights)


@pytest.fixture
def take(tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., tuple[KeyReport, State]]:
    """What a file holds → the report, and the weights of the checkpoint made of it."""

    def imported(stored: object, **options: Any) -> tuple[KeyReport, State]:
        torch.save(stored, tmp_path / "w.pth")
        c, out = load_checkpoint(tiny_checkpoint), tmp_path / "out.safetensors"
        report = import_weights(tmp_path / "w.pth", c.spec, c.vocabulary, c.bank, out, **options)
        return report, dict(load_checkpoint(out).weights)

    return imported


def other(state: State) -> State:
    """The raw weights, of which the good ones are the average."""
    return {k: w * 2 if w.is_floating_point() else w for k, w in state.items()}  # exact in half


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("wrap", "key", "raw"),
    [
        (lambda a, b: {"model": b, "ema": a}, "ema", "model"),
        (lambda a, b: {"state_dict": b, "state_dict_ema": a, "epoch": 3}, "state_dict_ema", "state_dict"),
        (lambda a, b: {"params": b, "params_ema": a}, "params_ema", "params"),
        (lambda a, b: {"model": b, "model_ema": {"module": a}}, "model_ema", "model"),
        (lambda a, b: {"teacher": prefixed("module.", a), "student": b}, "teacher", "student"),
        (
            lambda a, b: {"state_dict": {**prefixed("net.", b), **prefixed("net_ema.", a)}},
            "state_dict.net_ema",
            "state_dict.net",
        ),
        (lambda a, b: {**b, "ema": {"shadow": a, "decay": 0.999}}, "ema.shadow", "."),
        (
            lambda a, b: {
                "state_dict": b,
                "ema_state_dict": {"steps": torch.tensor(9), **prefixed("module.", a)},
            },
            "ema_state_dict",
            "state_dict",
        ),
    ],
    ids=["YOLO", "timm", "BasicSR", "DeiT", "teacher", "in one dict", "shadow", "MMEngine"],
)  # fmt: skip
def test_raw_and_averaged_weights_are_refused_until_one_is_chosen(
    take: Callable[..., tuple[KeyReport, State]],
    good: State,
    wrap: Callable[[State, State], object],
    key: str,
    raw: str,
) -> None:
    stored = wrap(good, other(good))
    with pytest.raises(BadInput, match=r"2 places hold such weights: .*--key") as caught:
        take(stored)
    message = str(caught.value)
    assert (
        message.count(f"({len(good)} tensors)") + message.count(f"({2 * len(good)} tensors)") == 2
    )
    report, weights = take(stored, key=key)
    assert same(weights, good)
    assert report.place.startswith(key)
    report, weights = take(stored, key=raw)
    assert same(weights, other(good))
    assert sum(report.beside.values()) >= len(good)


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda w: {"net": w}, "net"),
        (lambda w: {"network": w, "lr": 0.1}, "network"),
        (lambda w: {"params": w}, "params"),
        (lambda w: {"params_ema": w}, "params_ema"),
        (lambda w: {"generator": OrderedDict(w)}, "generator"),
        (lambda w: {"model": {"state_dict": prefixed("module.", w)}}, "model.state_dict.module"),
        (lambda w: prefixed("_orig_mod.model.", w), "_orig_mod.model"),
        (lambda w: {"state_dict": {**prefixed("net.", w), "loss.weight": torch.ones(3)}}, "state_dict.net"),
        (lambda w: [w][0] | {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "."),
    ],
)  # fmt: skip
def test_weights_are_found_wherever_they_lie_and_the_place_is_named(
    take: Callable[..., tuple[KeyReport, State]],
    good: State,
    wrap: Callable[[State], object],
    place: str,
) -> None:
    report, weights = take(wrap(good))
    assert report.place == place
    assert report.taken == len(good)
    assert not report.left_over
    assert same(weights, good)
    again, weights = take(wrap(good), key=place)
    assert again.place == place
    assert same(weights, good)


def test_a_key_that_is_not_there_is_told_what_is(
    take: Callable[..., tuple[KeyReport, State]], good: State, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"no tensors are at ema; it has net") as caught:
        take({"net": good}, key="ema")
    command = shlex.split(str(caught.value).rpartition(": ")[2])
    assert command[0] == "segclip-deploy"
    assert call(*command[1:]).exit_code == 0


@pytest.mark.parametrize(
    "value",
    [np.float64(0.71), np.float32(1), np.int64(3), np.bool_(True), np.dtype("float16"), np.float64,
     {"best": [np.float32(1.5), np.str_("miou")]}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_are_let_through(
    tiny_checkpoint: Path, tmp_path: Path, good: State, value: object, zipped: bool
) -> None:
    path, c = tmp_path / "w.pth", load_checkpoint(tiny_checkpoint)
    before = list(torch.serialization.get_safe_globals())
    torch.save({"state_dict": good, "best": value}, path, _use_new_zipfile_serialization=zipped)
    out = tmp_path / "out.safetensors"
    report = import_weights(path, c.spec, c.vocabulary, c.bank, out)
    assert report.place == "state_dict"
    assert same(dict(load_checkpoint(out).weights), good)
    assert set(torch.serialization.get_safe_globals()) == set(before)  # for this reading alone


class Settings:
    """Somebody's own class."""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (Settings(), "tests.model.test_torch_file.Settings"),
        (Path("run42"), "pathlib"),
    ],
    ids=["namespace", "own class", "path"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_another_class_is_named_and_the_printed_command_strips_it(
    take: Callable[..., tuple[KeyReport, State]],
    tiny_checkpoint: Path,
    tmp_path: Path,
    good: State,
    extra: object,
    named: str,
    zipped: bool,
) -> None:
    path = tmp_path / "farmer's field; 1.pth"
    stored = {"state_dict": good, "args": extra, "epoch": 3}
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    c, out = load_checkpoint(tiny_checkpoint), tmp_path / "out.safetensors"
    with pytest.raises(BadArtifact, match=r"it runs the file's code") as caught:
        import_weights(path, c.spec, c.vocabulary, c.bank, out)
    message = str(caught.value)
    assert f"holds objects of {named}" in message
    assert "\n" not in message
    python, *rest = shlex.split("python" + message.rpartition(": python")[2])
    assert python == "python"
    subprocess.run([sys.executable, *rest], check=True, cwd=ROOT)
    report = import_weights(Path(rest[-1]), c.spec, c.vocabulary, c.bank, out)
    assert report.place == "state_dict"
    assert same(dict(load_checkpoint(out).weights), good)


@pytest.mark.faults
def test_a_whole_module_is_named_and_the_printed_command_keeps_its_weights(
    tmp_path: Path,
) -> None:
    path = tmp_path / "whole.pth"
    layer = torch.nn.Linear(2, 3)
    torch.save(layer, path)
    result = call("import", "--list", path)
    assert result.exit_code == 1
    assert "torch.nn.modules.linear.Linear" in result.stderr
    command = shlex.split("python" + result.stderr.rpartition(": python")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    plain = torch.load(command[-1], weights_only=True)
    assert torch.equal(plain["weight"], layer.weight)


@pytest.mark.faults
@pytest.mark.parametrize(
    "change",
    [
        lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
        lambda w: {k: v[None] if k.endswith("num_batches_tracked") else v for k, v in w.items()},
        lambda w: {**w, "neck.bn.num_batches_tracked": torch.tensor(5)},
    ],
    ids=["absent", "of another shape", "of a layer that is not there"],
)
def test_counters_of_training_steps_are_neither_needed_nor_in_the_way(
    take: Callable[..., tuple[KeyReport, State]],
    good: State,
    change: Callable[[State], State],
) -> None:
    counters = {k for k in good if k.endswith("num_batches_tracked")}
    assert counters
    report, weights = take(change(good))
    assert weights.keys() == good.keys()
    assert all(torch.equal(weights[k], good[k]) for k in good.keys() - counters)
    there = report.taken - (len(good) - len(counters))
    assert report.counters == len(counters) - there
    assert all(weights[k].item() == 0 for k in counters) or there == len(counters)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"epoch": 3, "config": "a.yaml"}, "holds no tensors; its keys are: epoch, config"),
        ({"state_dict": {}, "args": {"lr": 0.1}}, "holds no tensors; its keys are: state_dict, args"),
        ({}, "holds no tensors; its keys are: none"),
        ([torch.zeros(2)], "holds a list, not named tensors"),
        ({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}, "two of its tensors have the name a.b"),
    ],
)  # fmt: skip
def test_a_file_without_named_tensors_says_what_it_has(
    take: Callable[..., tuple[KeyReport, State]], stored: object, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        take(stored)


@pytest.mark.faults
def test_mappings_that_hold_themselves_are_refused(
    take: Callable[..., tuple[KeyReport, State]],
) -> None:
    stored: dict[str, object] = {"w": torch.zeros(1)}
    stored["self"] = stored
    with pytest.raises(BadArtifact, match="nest without end"):
        take(stored)


def test_list_prints_every_key_with_place_shape_and_type(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    stored = {
        "model": {"state_dict": {"a.weight": torch.zeros(2, 3), "b": torch.tensor(1).half()}},
        "shadow": [torch.zeros(4)],
        "miou": np.float64(0.7),
    }
    torch.save(stored, path)
    result = call("import", "--list", path)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "model.state_dict  a.weight  2×3  float32",
        "model.state_dict  b  scalar  float16",
        "shadow  0  4  float32",
        ".  miou  no tensor  float64",
    ]
    keys = json.loads(call("import", path, "--list", "--json").stdout)["keys"]
    assert keys[0] == {
        "place": "model.state_dict",
        "key": "a.weight",
        "shape": [2, 3],
        "dtype": "float32",
    }
    assert [k["shape"] for k in keys] == [[2, 3], [], [4], None]
    result = call("import", path)  # after --list, the others are required again
    assert result.exit_code == 2
    assert "Missing option '--spec'" in result.stderr


def test_the_command_says_what_it_took_and_what_it_left(
    tiny_checkpoint: Path, tmp_path: Path, good: State
) -> None:
    c, path, spec = load_checkpoint(tiny_checkpoint), tmp_path / "w.pth", tmp_path / "spec.json"
    spec.write_text(
        json.dumps({"classes": 5, "text_width": 16, "encoder": c.spec.encoder, "width": 32})
    )
    bank = tmp_path / "bank.npz"
    np.savez(bank, classes=c.bank.classes, texts=c.bank.texts, encoder="random")
    torch.save({"net": good, "optimizer": {"m": torch.zeros(2)}}, path)
    command = ["import", path, "--spec", spec, "--vocabulary", "dubai", "--text", bank]
    result = call(*command, "-o", tmp_path / "o.safetensors")
    assert result.exit_code == 0, result.stderr
    assert f"took net: {len(good)} tensors" in result.stdout
    assert "beside them, not taken: optimizer (1 tensors)" in result.stderr
    told = json.loads(call(*command, "-o", tmp_path / "o.safetensors", "--json").stdout)
    assert (told["place"], told["beside"]) == ("net", {"optimizer": 1})


def test_the_table_of_wanted_keys_in_the_docs_is_the_networks() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference" / "keys" / "make.py"))
    text = (ROOT / "docs" / "how-to" / "import.md").read_text(encoding="utf-8")
    assert made["page"](text, made["wanted"]()) == text, "python docs/reference/keys/make.py"
    # Independently: the counts of the table are those of the network.
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert sum(int(row[1]) for row in rows) == len(made["wanted"]())
