"""``refit_engine``: an engine takes over the vocabulary of another bundle, without a build."""

from __future__ import annotations

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.files import temporary_file
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.build import prove, write_engine
from segclip_deploy.runtime.engine import Engine, check_device, load_engine, rebuild_command
from segclip_deploy.runtime.targets.tensorrt.inspector import by_block
from segclip_deploy.runtime.targets.tensorrt.library import MODULES, load_library
from segclip_deploy.runtime.targets.tensorrt.make import fly
from segclip_deploy.runtime.targets.tensorrt.refit import refit_plan
from segclip_deploy.runtime.verify import check

__all__ = ["refit_engine"]

_SAME = ("input", "outputs", "precision", "plan", "model")


def refit_engine(engine: Engine, bundle: Bundle) -> Engine:
    """Replace an engine's ``text.*`` weights by a bundle's, and prove it on the bundle's tiles.

    Args:
        engine: TensorRT or TensorRT-RTX, built with ``--refittable``, on this machine.
        bundle: of the same model and input, with another vocabulary of as many classes.

    Raises:
        BadArtifact: TensorRT refuses to refit it.
        BadInput: an engine that cannot be refitted, or a bundle of another model.
        GateFailed: the refitted engine does not say what the bundle says; the old one stays.
        MissingDependency: no GPU, or no TensorRT.
        StaleArtifact: the engine was built for another machine.
    """
    record = engine.record
    remedy = rebuild_command({**record, "bundle_path": str(bundle.path)}, engine.path)
    if engine.target not in MODULES:
        raise BadInput(
            f"an engine for {engine.target} cannot be refitted", where=engine.path, fix=remedy
        )
    if "--refittable" not in record["arguments"]:
        raise BadInput(
            "it was not built to be refitted", where=engine.path, fix=f"{remedy} --refittable"
        )
    differing = [
        name for name in _SAME if getattr(engine.bundle, name) != getattr(bundle.record, name)
    ]
    if differing:
        raise BadInput(
            f"another model than the engine's: {', '.join(differing)} differs", where=bundle.path
        )
    check_device(engine)
    settings = dict(record["settings"])
    try:
        plan = refit_plan(load_library(engine.target), engine.path, bundle.model_path)
    except BadArtifact as error:
        raise BadArtifact(error.what, where=engine.path, fix=remedy) from error
    with temporary_file(engine.path) as file:
        file.write_bytes(plan)
        flown = fly(file, engine.target, bundle, prove, settings)
        check(flown.verification, where=engine.path)
        kept = ("arguments", "device", "settings", "build", "network")
        facts = {
            **{name: record[name] for name in kept},
            "layers": flown.layers,
            "blocks": by_block(flown.layers) if flown.layers else None,
            "verified": flown.verification.to_json(),
            "not_verified": None,
        }
        write_engine(engine.path, file, engine.target, bundle, facts)
    return load_engine(engine.path)
