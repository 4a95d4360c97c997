"""Options that change nothing are refused: who gives one expects that it does something."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.pictures import applied_options
from segclip_deploy.runtime.io.raster.source import Reading

__all__ = ["refuse_idle_options"]

_WHY = {
    "ignore_alpha": "has no alpha band that takes pixels away",
    "scale": "its values are 8 bits, which are taken as they are",
}


def refuse_idle_options(paths: Iterable[Path], reading: Reading) -> None:
    """Refuse ``--ignore-alpha`` and ``--scale`` where they change none of the images and rasters.

    One file that an option applies to is enough: the others are read as without it.
    ``--bands`` always decides something. ``--keep-scale`` and ``--allow-remote`` are permissions,
    and permitted things need not happen.

    Args:
        paths: of images and rasters; those that cannot be read are left to whoever reads them.
        reading: what the user says of them.

    Raises:
        BadInput: an option that does nothing, and the first file that it does nothing for.
        MissingDependency: a raster, and no rasterio.
    """
    idle = {name for name in _WHY if getattr(reading, name)}
    first: Path | None = None
    count = 0
    for path in paths if idle else ():
        try:
            idle -= applied_options(path, reading)
        except BadInput:
            continue
        if not idle:
            return
        count += 1
        first = first or path
    if first is not None:
        name = min(idle)
        others = f", nor do the {count - 1} others need it" if count > 1 else ""
        option = f"--{name.replace('_', '-')}"
        raise BadInput(
            f"{option} does nothing: {_WHY[name]}{others}", where=first, fix=f"leave {option} out"
        )
