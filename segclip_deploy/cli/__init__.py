"""The command line: click parses, one library call works, and the result is printed."""

from __future__ import annotations

import click

from segclip_deploy import __version__
from segclip_deploy.cli.benchmark import benchmark
from segclip_deploy.cli.build_engine import build_engine
from segclip_deploy.cli.calibrate import calibrate
from segclip_deploy.cli.compact import compact
from segclip_deploy.cli.compare import compare
from segclip_deploy.cli.dataset import dataset
from segclip_deploy.cli.doctor import doctor
from segclip_deploy.cli.evaluate import evaluate
from segclip_deploy.cli.export import export
from segclip_deploy.cli.import_ import import_
from segclip_deploy.cli.inspect import inspect
from segclip_deploy.cli.map import map_
from segclip_deploy.cli.output import Verbs
from segclip_deploy.cli.plan import plan
from segclip_deploy.cli.profile import profile
from segclip_deploy.cli.quantize import quantize
from segclip_deploy.cli.report import report
from segclip_deploy.cli.ros import ros
from segclip_deploy.cli.run import run
from segclip_deploy.cli.service import service
from segclip_deploy.cli.set_texts import set_texts
from segclip_deploy.cli.smooth import smooth
from segclip_deploy.cli.train import train
from segclip_deploy.cli.verify import verify

__all__ = ["main"]


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segclip-deploy")
def main() -> None:
    """Take a trained SegCLIP to the GPU of a UAV.

    export, then build-engine, then run.
    """


# In the order of the work.
for _part, _commands in {
    "Prepare": (train, import_, compact),
    "Export": (export, set_texts),
    "Quantize": (smooth, calibrate, plan, quantize),
    "Build": (build_engine, verify),
    "Fly": (run, service, map_, ros),
    "Measure": (evaluate, profile, compare, benchmark, report),
    "Look": (dataset, inspect, doctor),
}.items():
    main.add_part(_part, _commands)
