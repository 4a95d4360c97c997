"""Look: ``dataset``, ``inspect`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import AnyPath, check_choice
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, silent

if TYPE_CHECKING:
    from segclip_deploy.artifacts.bundle import Bundle
    from segclip_deploy.artifacts.engine import Engine
    from segclip_deploy.evaluation.survey import DatasetReport
    from segclip_deploy.model.checkpoint import CheckpointFacts
    from segclip_deploy.runtime.doctor import Machine

__all__ = ["dataset", "doctor", "inspect"]


def dataset(
    root: AnyPath,
    *,
    vocabulary: str | None = None,
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    ignore_alpha: bool = False,
    sheet: AnyPath | None = None,
    report: Report = silent,
) -> DatasetReport:
    """Read a whole dataset: what it holds, and everything that is wrong with it.

        found = api.dataset("LoveDA", sheet="loveda.png")
        assert not found.problems

    Args:
        root: the folder, as it was downloaded.
        vocabulary: that its masks are read with: name of a shipped one, or a YAML file; by default that
            of the layout.
        layout: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands: which bands of the images are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        ignore_alpha: an alpha band takes no pixel away.
        sheet: a page of images with their masks to write (.png).
        report: told how far it is.

    Raises:
        BadInput: of no layout, or of several; or a layout without a vocabulary of its own, and none is given.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.evaluation.layouts import find_layout
    from segclip_deploy.evaluation.mask_sheet import mask_sheet
    from segclip_deploy.evaluation.survey import survey_dataset
    from segclip_deploy.runtime.io.raster.source import Reading

    kind = find_layout(Path(root), layout)
    words = vocabulary or kind.vocabulary
    if words is None:
        raise UsageError(f"layout {kind.name} has no classes of its own: give --vocabulary")
    data = open_dataset(
        root,
        load_vocabulary(words),
        layout=kind.name,
        mask_suffix=mask_suffix,
        reading=Reading(bands, scale, ignore_alpha=ignore_alpha),
    )
    found = survey_dataset(data, source=kind.source, report=report)
    if sheet is not None:
        mask_sheet(data, Path(sheet))
    return found


def inspect(path: AnyPath) -> CheckpointFacts | Bundle | Engine:
    """Read what an artefact is and comes from.

    Args:
        path: a checkpoint, a bundle or an engine.

    Raises:
        BadArtifact: none of these, or damaged.
        StaleArtifact: a file was changed since it was made.

    Examples:
        >>> from segclip_deploy import api
        >>> api.inspect("dubai").vocabulary.names
        ('building', 'land', 'road', 'vegetation', 'water')
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from segclip_deploy._optional import require

        require("torch", why="reading a checkpoint")
        from segclip_deploy.model.checkpoint import describe_checkpoint

        return describe_checkpoint(path)
    if path.is_dir():
        from segclip_deploy.artifacts.bundle import load_bundle

        return load_bundle(path)
    from segclip_deploy.artifacts.engine import load_engine

    return load_engine(path)


def doctor() -> Machine:
    """Look at this machine: what is here, which engines can be built and run, what to install.

    Examples:
        >>> from segclip_deploy import api
        >>> api.doctor().targets["onnxruntime"].run
        True
    """
    from segclip_deploy.runtime.doctor import examine

    return examine(Path.cwd())
