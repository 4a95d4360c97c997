"""The command line: click parses, one library call works, and the result is printed."""

from __future__ import annotations

import click

from segclip_deploy import __version__
from segclip_deploy.cli.output import Verbs

__all__ = ["main"]

# In the order of the work; each line fits a terminal of 80 columns.
_PARTS = {
    "Prepare": {
        "train": "Train a SegCLIP on a dataset as it was downloaded.",
        "import": "Turn a PyTorch file (.pth) into a checkpoint.",
        "compact": "Prune and distil a checkpoint until it is fast enough.",
    },
    "Export": {
        "export": "Export a checkpoint to a bundle: ONNX, texts inside.",
        "set-texts": "Fold other class texts into a bundle or an engine.",
    },
    "Quantize": {
        "smooth": "Even out the outlier channels of a ViT.",
        "calibrate": "Measure the ranges of a bundle's activations on tiles.",
        "plan": "Find the fastest mix of precisions that is accurate.",
        "quantize": "Write INT8 or FP16 into a bundle.",
    },
    "Build": {
        "build-engine": "Make and prove an engine for this machine.",
        "verify": "Hold an engine against its golden tiles.",
    },
    "Fly": {
        "run": "Segment images, videos, cameras and rasters.",
        "service": "Show the systemd unit that runs an engine.",
        "map": "Segment rasters on the workers of a Dask cluster.",
        "ros": "Label the images of a ROS 2 topic.",
    },
    "Measure": {
        "evaluate": "Score an engine on a dataset.",
        "profile": "Time an engine, stage by stage and layer by layer.",
        "compare": "Say how many times faster one profile is than another.",
        "benchmark": "Measure accuracy against latency; say what to fly.",
        "report": "Join the benchmarks of several machines.",
    },
    "Look": {
        "dataset": "Say what a dataset holds, and what is wrong in it.",
        "inspect": "Say what a checkpoint, a bundle or an engine is.",
        "doctor": "Say what is installed here, and what can run.",
    },
}


@click.group(cls=Verbs, parts=_PARTS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segclip-deploy")
def main() -> None:
    """Take a trained SegCLIP to the GPU of a UAV.

    export, then build-engine, then run.
    """
