"""Serve: ``service``, the unit that runs an engine from boot to power-off."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from segclip_deploy.api._arguments import (
    FLIGHT_ONLY,
    AnyPath,
    AnyPaths,
    check_endless,
    check_values,
    texts_of,
)
from segclip_deploy.api.flying import run
from segclip_deploy.errors import BadInput

if TYPE_CHECKING:
    from segclip_deploy.runtime.service.unit import ServiceUnit

__all__ = ["service"]

P = ParamSpec("P")


def _with_parameters_of(
    verb: Callable[P, object],
) -> Callable[[Callable[..., ServiceUnit]], Callable[P, ServiceUnit]]:
    """Give a function the parameters of a verb, without those of a flight."""

    def decorate(function: Callable[..., ServiceUnit]) -> Callable[P, ServiceUnit]:
        signature = inspect.signature(verb)
        kept = [p for name, p in signature.parameters.items() if name not in FLIGHT_ONLY]

        @wraps(function)
        def decorated(*args: P.args, **options: P.kwargs) -> ServiceUnit:
            given = own.bind(*args, **options)
            given.apply_defaults()
            return function(**given.arguments)

        own = signature.replace(parameters=kept, return_annotation="ServiceUnit")
        decorated.__signature__ = own  # type: ignore[attr-defined]
        return decorated

    return decorate


@_with_parameters_of(run)
def service(engine: AnyPath, sources: AnyPaths, *, out: AnyPath, **options: Any) -> ServiceUnit:
    """Show the systemd unit that runs an engine on a source: ``run`` with ``service`` and all that surrounds it.

    Nothing is installed. The unit is for this machine and this user. docs/how-to/service.md says what its
    lines do.

    Args:
        engine: an engine or a bundle.
        sources: as of ``run``; a camera need not be there yet.
        out: the folder to write.
        options: as of ``run``; ``keep`` is needed.

    Raises:
        UsageError: arguments that do not go together.
        BadArtifact: neither an engine nor a bundle.
        BadInput: a source that is not there, or a path that no unit can name.

    Examples:
        >>> from segclip_deploy import api
        >>> unit = api.service("dubai.ort.onnx", "/dev/video0", out="/data/labels", keep=10**10)
        >>> unit.path.name, "Type=notify" in unit.text
        ('segclip-deploy.service', True)
    """
    check_values(
        options["threads"],
        options["deadline_ms"],
        options["margin_below"],
        options["max_megapixels"],
        options["decoder"],
    )
    check_endless(keep=options["keep"], video=None, mcap=None, jsonl=options["jsonl"])
    from segclip_deploy.runtime.formats.address import display_name
    from segclip_deploy.runtime.io.sources.gstreamer_presets import is_pipeline
    from segclip_deploy.runtime.io.sources.live import is_live
    from segclip_deploy.runtime.open_engine import is_threaded
    from segclip_deploy.runtime.service.unit import make_unit

    named = texts_of(sources)
    for source in named:
        # A camera may come later.
        later = is_live(source) or is_pipeline(source) or source.startswith("/dev/")
        if not later and not Path(source).exists():
            raise BadInput("no such file or folder", where=display_name(source))
    on_gpu = not is_threaded(Path(engine))
    return make_unit(
        list(_words(options)), engine=Path(engine), sources=named, out=Path(out), on_gpu=on_gpu
    )


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """Parameters of ``run`` as words of its command line."""
    defaults = inspect.signature(run).parameters
    for name, value in options.items():
        if value in (defaults[name].default, None):
            continue
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield _word(name, value)


def _word(name: str, value: Any) -> str:
    if name == "keep":
        from decimal import Decimal

        return f"{Decimal(value) / 10**6:f}MB"
    named = name == "jsonl" and value != "-"
    if isinstance(value, Path) or named or (name == "telemetry" and Path(value).exists()):
        return str(Path(value).absolute())  # a service runs elsewhere
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)
