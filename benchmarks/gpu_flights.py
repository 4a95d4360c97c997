"""The steps of gpu_check.py that fly: all of it is real but the engine, for which ONNX Runtime answers."""

from __future__ import annotations

import ctypes
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_steps import Check, NotRun, load_kernel, need, pycuda_context


@contextmanager
def stub_engine(check: Check, *outputs: str) -> Iterator[tuple[Path, Any, list[str]]]:
    """A plan, the bundle it is of, and what goes wrong inside of it.

    Args:
        outputs: of the plan; none: those of the bundle.
    """
    need("pycuda.driver")
    need("cuda.bindings.driver")
    from segclip_deploy.artifacts.bundle import load_bundle
    from tests.support.stub_tensorrt import install

    bundle = load_bundle(check.kit / "blend")
    failed = install(bundle.input.batches)
    with tempfile.TemporaryDirectory() as name:
        plan = Path(name) / "stub.engine"
        plan.write_text("\n".join([str(bundle.model_path), *outputs]), encoding="utf-8")
        yield plan, bundle, failed
    assert not failed, failed


def open_plan(plan: Path, bundle: Any) -> Any:
    """A segmenter on the GPU."""
    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.targets.tensorrt.tensorrt_backend import TensorRtBackend

    backend = TensorRtBackend(plan, target="tensorrt", batches=bundle.input.batches)
    return Segmenter(backend, bundle.input, bundle.vocabulary)


def frame_of(bundle: Any) -> Any:
    """A frame of two windows and a half, of the golden tiles."""
    import numpy as np

    from segclip_deploy.artifacts.golden import load_golden
    from segclip_deploy.runtime.inference.frame import Frame

    tile = load_golden(bundle.golden_path).tiles[0]
    wide = np.concatenate((tile, tile[:, ::-1], tile[:, : tile.shape[1] // 2]), axis=1)
    return Frame(np.ascontiguousarray(wide), source="golden tiles")


def fly(check: Check) -> dict[str, Any]:
    """Frames in this thread and another, and every batch, against ONNX Runtime on the CPU."""
    import numpy as np

    from segclip_deploy.runtime.open_engine import open_segmenter

    with stub_engine(check) as (plan, bundle, _):
        frame = frame_of(bundle)
        with open_segmenter(bundle.path) as reference, open_plan(plan, bundle) as flown:
            name = flown.backend.name
            assert "plain launches" not in name, name
            assert "NumPy" not in name, name
            expected = reference.segment(frame)
            found = [flown.segment(frame) for _ in range(2)]
            other = threading.Thread(target=lambda: found.append(flown.segment(frame)))
            other.start()
            other.join()
            equal = [float((one.labels == expected.labels).mean()) for one in found]
            assert len(equal) == 3, "the other thread gave nothing"
            assert min(equal) > 0.999, f"labels equal: {equal}"
            for one in found:
                assert np.abs(one.margin.astype(int) - expected.margin).max() <= 1
            for batch in bundle.input.batches:
                pixels = np.random.default_rng(batch).integers(
                    0, 256, (batch, bundle.input.height, bundle.input.width, 3), np.uint8
                )
                answers = {k: v.copy() for k, v in flown.backend.infer({"image": pixels}).items()}
                for output, values in reference.backend.infer({"image": pixels}).items():
                    assert np.allclose(answers[output], values, atol=1e-4), f"{output}, {batch}"
            stages = dict(flown.backend.stage_ms())
    return {"name": name, "equal": min(equal), "stage_ms": stages}


def make_labels(check: Check) -> dict[str, Any]:
    """Labels and margin that the kernel makes of a plan's logits, and one copy for both.

    Against those of the graph, computed by ONNX Runtime, for every batch.
    """
    import numpy as np

    from segclip_deploy.runtime.open_engine import open_engine
    from segclip_deploy.runtime.targets.tensorrt.tensorrt_backend import TensorRtBackend

    with stub_engine(check, "logits") as (plan, bundle, _):
        batches = bundle.input.batches
        flown = TensorRtBackend(plan, target="tensorrt", batches=batches, outputs="labels margin")
        with flown, open_engine(bundle.path).backend as reference:
            name = flown.name
            assert "labels by a kernel" in name, name
            assert "plain launches" not in name, name
            worst = 1.0
            for batch in batches:
                pixels = np.random.default_rng(batch).integers(
                    0, 256, (batch, bundle.input.height, bundle.input.width, 3), np.uint8
                )
                found = flown.infer({"image": pixels})
                expected = reference.infer({"image": pixels})
                assert set(found) == {"labels", "margin"}
                worst = min(worst, float((found["labels"] == expected["labels"]).mean()))
                assert worst > 0.999, (
                    f"labels of batch {batch}: {worst:.4%} equal"
                )  # ties may differ
                moved = np.abs(found["margin"].astype(int) - expected["margin"]).max()
                assert moved <= 1, f"margin of batch {batch}: off by {moved}"
            stages = dict(flown.stage_ms())
    return {"name": name, "equal": worst, "stage_ms": stages}


def open_and_close(check: Check) -> dict[str, Any]:
    """Forty flights take no memory of the GPU, and at most little of the host."""
    with stub_engine(check) as (plan, bundle, _):
        frame = frame_of(bundle)
        taken = []
        for turn in range(41):
            with open_plan(plan, bundle) as flown:
                flown.segment(frame)
            if turn in (0, 40):
                with pycuda_context() as cuda:
                    taken.append((cuda.mem_get_info()[0], resident()))
    (free, host), (free_after, host_after) = taken
    leaked, grown = (free - free_after) / 2**20, (host_after - host) / 2**20
    assert leaked < 8, f"{leaked:.0f} MiB of the GPU are gone"
    assert grown < 40, f"the process has grown by {grown:.0f} MiB"
    return {"gpu_mib": leaked, "host_mib": grown}


def resident() -> int:
    """Bytes of this process in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) << 10 if found else 0


def meet_illegal_address(check: Check) -> dict[str, Any]:
    """After a kernel has read a wrong address, a flight says «restart the process», and ends well."""
    from segclip_deploy.errors import SegclipError

    with stub_engine(check) as (plan, bundle, _):
        frame = frame_of(bundle)
        flown = open_plan(plan, bundle)
        flown.segment(frame)
        code = launch_at(0xDEAD0000)
        try:
            flown.segment(frame)
        except SegclipError as error:
            said = str(error)
        else:
            raise AssertionError("the next frame did not notice")
        assert "\n" not in said, said
        assert "restart the process" in said, said
        flown.close()
    return {"code": code, "said": said}


def launch_at(address: int) -> int:
    """Let the kernel work at an address that is none; the driver's code for it."""
    driver, kernel = load_kernel()
    numbers = (ctypes.c_uint64(address), ctypes.c_uint64(address), ctypes.c_uint64(address))
    packed = b"".join(bytes(n) for n in (*numbers, *(ctypes.c_int(n) for n in (5, 8, 8))))
    arguments, size = ctypes.create_string_buffer(packed), ctypes.c_size_t(len(packed))
    extra = (ctypes.c_void_p * 5)(
        1, ctypes.addressof(arguments), 2, ctypes.addressof(size), 0
    )  # CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END
    stream, context = ctypes.c_void_p(), ctypes.c_void_p()
    driver("cuStreamCreate", ctypes.byref(stream), 1)
    driver("cuLaunchKernel", kernel, 1, 4, 1, 32, 8, 1, 0, stream, None, extra)
    try:
        driver("cuStreamSynchronize", stream)
    except RuntimeError as error:
        return int(error.args[1])
    finally:
        ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(context))
    raise AssertionError("the driver did not notice")


def meet_out_of_memory(check: Check) -> dict[str, Any]:
    """With the GPU's memory taken an engine is refused in one line; once it is free, it flies."""
    from segclip_deploy.errors import BadArtifact

    with stub_engine(check) as (plan, bundle, _):
        with open_plan(plan, bundle) as flown:  # the driver's own memory is taken now
            flown.segment(frame_of(bundle))
        with pycuda_context() as cuda:
            attribute = cuda.device_attribute.INTEGRATED
            if cuda.Device(0).get_attribute(attribute):
                raise NotRun("host and GPU have one memory: taking it all would end the system")
            held, size = [], cuda.mem_get_info()[0]
            while size >= 1 << 12:  # down to less than the smallest buffer
                try:
                    held.append(cuda.mem_alloc(size))
                except cuda.MemoryError:
                    size //= 2
        try:
            open_plan(plan, bundle).close()
        except BadArtifact as error:
            said = str(error)
        else:
            raise AssertionError("it opened")
        with pycuda_context():
            held.clear()
        assert "the GPU refuses it" in said, said
        assert "\n" not in said, said
        with open_plan(plan, bundle) as flown:
            flown.segment(frame_of(bundle))
    return {"said": said}
