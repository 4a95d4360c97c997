"""``ros`` on the command line: what is for ROS, and what the launch file starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from segclip_deploy import api
from segclip_deploy.runtime.ros.node.ros_node import NodeOptions
from tests.support.helpers import call
from tests.support.topics import EXAMPLES, launched


@pytest.mark.parametrize(
    ("words", "for_ros", "bands"),
    [
        ([], (), None),
        (["--ros-args", "-r", "a:=b", "-p", "c:=d"], ("-r", "a:=b", "-p", "c:=d"), None),
        (["--ros-args", "-p", "a:=-1", "--", "--bands", "1,1,1"], ("-p", "a:=-1"), (1, 1, 1)),
        (["--ros-args", "-p", "a:=1", "--", "--ros-args", "--log-level", "warn"],
         ("-p", "a:=1", "--log-level", "warn"), None),
    ],
)  # fmt: skip
def test_what_follows_ros_args_is_for_ros(
    words: list[str],
    for_ros: tuple[str, ...],
    bands: tuple[int, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def fly(**options: Any) -> None:
        seen.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "ros", fly, raising=False)
    assert call("ros", "engine", "--image", "/c", *words).exit_code == 130
    assert (seen["ros_args"], seen["bands"]) == (for_ros, bands)


def test_the_launch_file_starts_the_node_with_parameters_that_it_has() -> None:
    program, *words = launched(engine="my engine")
    assert program == "segclip-deploy"
    assert words[:4] == ["ros", "my engine", "--image", "/camera/image_raw"]
    parameters = Path(words[-1])
    assert words[4:-1] == ["--ros-args", "-r", "__node:=segclip", "--params-file"]
    (values,) = yaml.safe_load(parameters.read_text()).values()
    usual = {name: value or 0.0 for name, value in vars(NodeOptions()).items()}
    assert values["ros__parameters"] == usual


def test_the_profile_for_images_is_one() -> None:
    space = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
    profile = ElementTree.parse(EXAMPLES / "fastdds.xml").getroot()
    known = {
        d.findtext(f"{space}transport_id") for d in profile.iter(f"{space}transport_descriptor")
    }
    used = {d.text for d in profile.iter(f"{space}userTransports") for d in d}
    assert known == used == {"images", "network"}
