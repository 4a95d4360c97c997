"""On board: ``ros``, which labels the images of a topic."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import AnyPath, check_range, check_values
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
    from segclip_deploy.runtime.ros.node.node_result import NodeResult
    from segclip_deploy.runtime.ros.node.ros_node import NodeOptions
    from segclip_deploy.runtime.streaming.run import Run

__all__ = ["ros"]


def ros(
    engine: AnyPath,
    *,
    image: str,
    overlap: int | None = None,
    threads: int = 0,
    preflight: bool = False,
    deadline_ms: float | None = None,
    margin_below: int | None = None,
    healthy_only: bool = False,
    overlay: bool = False,
    margin: bool = False,
    reliable: bool = False,
    bands: tuple[int, int, int] | None = None,
    ros_args: Sequence[str] = (),
    stop: Event | None = None,
    report: Report = silent,
) -> NodeResult:
    """Label the images of a ROS 2 topic, as a node, until it is stopped.

    Publishes what ``docs/how-to/ros.md`` describes. An image that cannot be used is said, and the node goes on.

    Args:
        engine: an engine or a bundle.
        image: the topic of the images, ``sensor_msgs/Image`` or ``CompressedImage``.
        overlap: pixels that windows share; by default what ``export --frame`` chose, or a quarter.
        threads: of an engine on the CPU; 0: the engine's choice.
        preflight: verify the engine first.
        deadline_ms: leave out of an image what would be late, milliseconds.
        margin_below: no label where the margin, 1 to 255, is smaller.
        healthy_only: no label map for images that are too dark, too bright, blurred, or unlike
            what the engine was calibrated on.
        overlay: publish the images under the colours of their classes.
        margin: publish the margins.
        reliable: lose no image; by default the newest is kept while the engine is busy.
        bands: which channels are red, green and blue, from 1; of mono8 (1, 1, 1).
        ros_args: what ROS itself takes: remappings, parameters, log levels.
        stop: set it from another thread or a signal to end: the image in work is finished.
        report: told how far it is.

    Raises:
        UsageError: arguments that do not go together, or that ROS does not take.
        MissingDependency: ROS 2 is not installed, or its setup file was not sourced.
        BadArtifact: the engine cannot run here.
        BadInput: the engine has no margin, and one is asked for.
        GateFailed: the engine failed its verification.
        DeviceLost: the GPU went away.

    Examples:
        A minute of a camera::

            stop = threading.Event()
            threading.Timer(60, stop.set).start()
            result = api.ros("dubai.engine", image="/camera/image_raw", stop=stop)
            print(result.summary.done, result.dropped)
    """
    check_values(threads, deadline_ms, margin_below)
    from segclip_deploy.runtime.open_engine import open_segmenter
    from segclip_deploy.runtime.ros.node.diagnostics import Diagnostics
    from segclip_deploy.runtime.ros.node.flight_status import FlightStatus
    from segclip_deploy.runtime.ros.node.node_result import NodeResult
    from segclip_deploy.runtime.ros.node.ros_library import load_ros
    from segclip_deploy.runtime.ros.node.ros_node import NodeOptions, RosNode
    from segclip_deploy.runtime.ros.node.topic_sink import TopicSink
    from segclip_deploy.runtime.ros.node.topic_source import TopicSource
    from segclip_deploy.runtime.streaming.run import Run

    engine, stop, say = Path(engine), stop or Event(), saying(report)
    asked = NodeOptions(deadline_ms, margin_below or 0, healthy_only, overlay, margin, reliable)
    status = FlightStatus()
    with ExitStack() as stack:
        node = stack.enter_context(RosNode(load_ros(), ros_args))
        segmenter = stack.enter_context(
            open_segmenter(engine, overlap=overlap, threads=threads, preflight=preflight)
        )
        facts = {"engine": str(engine), "classes": list(segmenter.vocabulary.names)}
        options = node.settle(asked, facts, say)
        _check(options, segmenter)
        source = TopicSource(
            node, image, reliable=options.reliable, bands=bands, status=status, say=say
        )
        sink = TopicSink(node, options, segmenter.vocabulary, status=status, stop=stop, say=say)
        flight = Run(
            segmenter,
            source,
            sink,
            deadline_ms=options.deadline_ms,
            margin_below=options.margin_below,
            healthy_only=options.healthy_only,
            stop=stop,
        )
        stack.enter_context(Diagnostics(node, status, segmenter.backend.name))
        stack.enter_context(sink)
        say(f"{engine} runs in {segmenter.backend.name}" + ", verification passed" * preflight)
        say(f"labelling {source.topic}")
        _label(flight, segmenter, status, report)
    return NodeResult(
        engine=segmenter.backend.name,
        topic=source.topic,
        summary=flight.summary,
        received=status.counts["received"],
        dropped=flight.dropped,
        lost=status.counts["lost"],
        reconnects=source.reconnects,
    )


def _check(options: NodeOptions, segmenter: Segmenter) -> None:
    """Refuse what parameters of ROS may say, and no option of the command line could."""
    from segclip_deploy.runtime.streaming.run import require_margin

    check_range("deadline_ms", options.deadline_ms, 0)
    check_range("margin_below", options.margin_below, 0, 255)
    if options.margin:
        require_margin(segmenter, "--margin")


def _label(flight: Run, segmenter: Segmenter, status: FlightStatus, report: Report) -> None:
    """Run to the end; each error is said once until another follows."""
    from segclip_deploy.runtime.inference.window_fit import fit_hint

    said, first, say = "", True, saying(report)
    for count, outcome in enumerate(flight, start=1):
        if outcome.error is not None:
            status.add_bad(str(outcome.error))
            if str(outcome.error) != said:
                said = str(outcome.error)
                say(f"error: {said}")
        elif outcome.shot is not None and first:
            first = False
            height, width = outcome.shot.frame.pixels.shape[:2]
            if hint := fit_hint(segmenter.grid(height, width)):
                say(f"hint: {hint}")
        report("labelling images", count, 0)
