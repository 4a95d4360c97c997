from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.model.convert import KeyReport, import_weights


def convert(tiny: Path, weights: Path, out: Path, **options: object) -> KeyReport:
    c = load_checkpoint(tiny)
    return import_weights(weights, c.spec, c.vocabulary, c.bank, out, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}, "epoch": 3},
        lambda w: {"model": {f"_orig_mod.module.{k}": v for k, v in w.items()}},
    ],
    ids=["plain", "DDP", "compiled DDP"],
)
def test_weights_come_through_the_usual_wrappers(
    tiny_checkpoint: Path, tmp_path: Path, wrap: object
) -> None:
    source = load_checkpoint(tiny_checkpoint).weights
    torch.save(wrap(dict(source)), tmp_path / "w.pth")  # type: ignore[operator]
    report = convert(tiny_checkpoint, tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert report.taken == len(source)
    again = load_checkpoint(tmp_path / "out.safetensors")
    assert all(torch.equal(source[k], again.weights[k]) for k in source)


def test_renames_and_left_over_keys(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = load_checkpoint(tiny_checkpoint).weights
    moved = {k.replace("encoder.body.", "backbone."): v for k, v in source.items()}
    torch.save({**moved, "teacher.weight": torch.zeros(2)}, tmp_path / "w.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(BadInput, match=r"missing \(encoder\.body.*--rename"):
        convert(tiny_checkpoint, tmp_path / "w.pth", out)
    renames = [("backbone.", "encoder.body.")]
    with pytest.raises(BadInput, match=r"1 left over \(teacher\.weight\).*--allow-left-over"):
        convert(tiny_checkpoint, tmp_path / "w.pth", out, renames=renames)
    assert not out.exists()
    report = convert(
        tiny_checkpoint, tmp_path / "w.pth", out, renames=renames, allow_left_over=True
    )
    assert report.left_over == ("teacher.weight",)
    assert set(load_checkpoint(out).weights) == set(source)


@pytest.mark.faults
def test_files_that_hold_no_plain_weights_are_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "w.pth", tmp_path / "out.safetensors"
    torch.save(torch.nn.Linear(2, 2), path)  # a pickle that would run code
    with pytest.raises(BadArtifact, match="state_dict"):
        convert(tiny_checkpoint, path, out)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(BadInput, match="list, not named tensors"):
        convert(tiny_checkpoint, path, out)
    path.write_bytes(path.read_bytes()[:64])
    with pytest.raises(BadArtifact, match="not readable"):
        convert(tiny_checkpoint, path, out)
    wrong = {
        k: v[:1] if v.ndim > 1 else v for k, v in load_checkpoint(tiny_checkpoint).weights.items()
    }
    torch.save(wrong, path)
    with pytest.raises(BadInput, match="of another shape"):
        convert(tiny_checkpoint, path, out)
    assert not out.exists()


def test_a_vocabulary_of_another_size_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    c = load_checkpoint(tiny_checkpoint)
    torch.save(dict(c.weights), tmp_path / "w.pth")
    with pytest.raises(BadInput, match="5 classes, its vocabulary 7"):
        import_weights(
            tmp_path / "w.pth",
            c.spec,
            load_vocabulary("loveda"),
            c.bank,
            tmp_path / "o.safetensors",
        )


def test_tiles_are_carried_along(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (600, 520, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tile.png")
    torch.save(dict(load_checkpoint(tiny_checkpoint).weights), tmp_path / "w.pth")
    out = tmp_path / "out.safetensors"
    convert(tiny_checkpoint, tmp_path / "w.pth", out, tiles=tmp_path)
    np.testing.assert_array_equal(load_checkpoint(out).examples[0], pixels[44:556, 4:516])
