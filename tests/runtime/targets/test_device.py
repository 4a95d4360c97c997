from __future__ import annotations

from pathlib import Path

import pytest

from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.targets.device import Gpu, find_cpu, find_gpu, find_jetson
from tests.support.fake_tensorrt import remove_driver


class Driver:
    """libcuda of a Jetson AGX Orin with JetPack 6.2."""

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGet(self, device: object, index: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetName(self, name: object, length: int, device: object) -> int:  # noqa: N802
        name.value = b"Orin"  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, value: object, which: int, device: object) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7, 16: 16}[which]  # type: ignore[attr-defined]
        return 0

    def cuDriverGetVersion(self, value: object) -> int:  # noqa: N802
        value._obj.value = 12060  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, value: object, device: object) -> int:  # noqa: N802
        value._obj.value = 64 << 30  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(
    ("module", "version"),
    [
        ("NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19", "535.129.03"),
        ("NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build", "540.4.0"),
        (None, None),
    ],
)
def test_the_gpu_is_asked_through_its_driver(
    module: str | None, version: str | None, tmp_path: Path
) -> None:
    if module:
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        (tmp_path / "proc/driver/nvidia/version").write_text(f"NVRM version: {module}\n")
    found = find_gpu(why="this", driver=Driver(), root=tmp_path)
    assert found == Gpu("Orin", "8.7", version, "12.6", 64 << 30, 16)


def test_no_driver_and_no_device_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependency, match=r"this needs an NVIDIA GPU.*CUDA error 100"):
        find_gpu(why="this", driver=Driver(code=100))

    remove_driver(monkeypatch)
    with pytest.raises(MissingDependency, match="no NVIDIA driver"):
        find_gpu(why="this")


@pytest.mark.parametrize(
    "name",
    ["cuDeviceGetName", "cuDeviceGetAttribute", "cuDriverGetVersion", "cuDeviceTotalMem_v2"],
)
def test_a_driver_that_fails_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, name, lambda *_: 999)
    with pytest.raises(MissingDependency, match=r"does not tell of it \(CUDA error 999"):
        find_gpu(why="this", driver=Driver())


def test_a_jetson_is_known_by_its_release_file(tmp_path: Path) -> None:
    assert find_jetson(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    )
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    found = find_jetson(tmp_path)
    assert found is not None
    assert (found.board, found.l4t) == ("NVIDIA Jetson AGX Orin Developer Kit", "36.4.3")


@pytest.mark.parametrize(
    ("cpuinfo", "flags"),
    [
        ("model name\t: EPYC\nflags\t\t: fpu avx2 avx512_bf16 rdpid\n", ("avx2", "avx512_bf16")),
        ("Features\t: fp asimd asimddp i8mm bf16\n", ("asimd", "asimddp", "bf16", "i8mm")),
        ("", ()),
    ],
)
def test_a_cpu_is_told_by_model_and_flags(
    cpuinfo: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    found = find_cpu(tmp_path)
    assert found.flags == flags
    assert found.cpu
    assert found.cores >= 1
