"""The Python of the README runs as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import EXAMPLE, ROOT


def test_the_pipeline_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) <= 15
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "dubai")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    miou, *_ = capsys.readouterr().out.split()
    assert 0.65 < float(miou) < 0.85
    size = Image.open(EXAMPLE / "images" / "tile6_part8.jpg").size
    for name in ("labels.png", "overlay.jpg"):
        assert Image.open(Path("out") / name).size == size
