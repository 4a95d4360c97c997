"""Look: ``inspect`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import AnyPath

if TYPE_CHECKING:
    from segclip_deploy.artifacts.bundle import Bundle
    from segclip_deploy.artifacts.engine import Engine
    from segclip_deploy.model.checkpoint import CheckpointFacts
    from segclip_deploy.runtime.doctor import Machine

__all__ = ["doctor", "inspect"]


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
