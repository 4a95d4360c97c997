"""Any bytes give a valid object or an error of ours: coverage-guided fuzzing of every reader.

    pip install atheris
    python benchmarks/fuzz.py [--minutes 10] [--only NAME …]

Each reader has a process of its own, and an equal share of the time. Half of the inputs are bytes as
they come; the other half are edits of a good file, made by the fuzzer's choice: a value of a record
replaced by one of another kind, an array by one of another shape. Anything but a ``SegclipError``
is a crash: it is written down once for each place it comes from, with its input, and the search goes on. A
process that takes more than 2 GB, or 300 s over an input, has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import re
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests.support makes good files
SUBTITLES = b"""1
00:00:00,000 --> 00:00:00,033
2026-05-27 13:14:22.500 [latitude: 46.000000] [longitude: 7.000000] [rel_alt: 80.0 abs_alt: 596.4] [gb_yaw: 1 gb_pitch: -90 gb_roll: 0]

2
00:00:00,033 --> 00:00:00,066
GPS(7.0001,46.0001,16) F.PRY (2.7, -7.0, 110.1), G.PRY (-24.4, 0.0, 110.4)
"""
HERE = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
STRANGE = (
    None, True, -1, 0, 1.5, 1e400, float("nan"), 10**30, 2**31, "", "x", "-1", "\ud800", "../x",
    "{}", [], {}, [[]], [None], {"x": None}, [1, 2, 3], ["x"] * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: of the file it is given.
        read: path → anything, or a SegclipError.
        seeds: good files.
        edit: (seed, choose) → an edited file; ``choose(n)`` gives a number below n.
    """

    name: str
    read: Callable[[Path], Any]
    seeds: list[bytes]
    edit: Callable[[bytes, Callable[[int], int]], bytes] | None = None


def places(tree: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in parsed JSON."""
    if where:
        yield where
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*where, key))


def strange(tree: Any, choose: Callable[[int], int]) -> Any:
    """A tree of which up to four values are replaced or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(1 + choose(4)):
        found = list(places(tree))
        if not found:
            break
        *way, last = found[choose(len(found))]
        at = tree
        for key in way:
            at = at[key]
        new = choose(len(STRANGE) + 1)
        if new == len(STRANGE):
            del at[last]
        else:
            at[last] = copy.deepcopy(STRANGE[new])
    return tree


def edit_json(seed: bytes, choose: Callable[[int], int]) -> bytes:
    return json.dumps(strange(json.loads(seed), choose)).encode()


def edit_yaml(seed: bytes, choose: Callable[[int], int]) -> bytes:
    import yaml

    return yaml.safe_dump(strange(yaml.safe_load(seed), choose)).encode("utf-8", "surrogatepass")


def strange_arrays(arrays: dict[str, Any], choose: Callable[[int], int]) -> dict[str, Any]:
    import numpy as np

    shapes = ((), (0,), (3,), (0, 4), (5, 2), (2, 8, 8), (5, 3, 16), (2, 8, 8, 3), (1, 1, 1, 1, 1))
    kinds = ("u1", "i8", "f2", "f4", "f8", "?", "U3")
    made = dict(arrays)
    for _ in range(1 + choose(3)):
        name = sorted(made)[choose(len(made))]
        array = np.full(shapes[choose(len(shapes))], choose(3) - 1).astype(
            kinds[choose(len(kinds))]
        )
        if choose(4) == 0 and len(made) > 1:
            del made[name]
        elif choose(8) == 0:
            made["other"] = array
        else:
            made[name] = array * np.inf if array.dtype.kind == "f" and choose(3) == 0 else array
    return made


def edit_npz(seed: bytes, choose: Callable[[int], int]) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.savez(out, **strange_arrays(dict(np.load(io.BytesIO(seed))), choose))
    return out.getvalue()


def edit_safetensors(key: str) -> Callable[[bytes, Callable[[int], int]], bytes]:
    """Edits of the JSON under ``key`` of the metadata, or of an array."""

    def edit(seed: bytes, choose: Callable[[int], int]) -> bytes:
        import safetensors.numpy as st

        arrays, length = st.load(seed), int.from_bytes(seed[:8], "little")
        metadata = json.loads(seed[8 : 8 + length])["__metadata__"]
        if choose(2) and key in metadata:
            metadata[key] = json.dumps(strange({"": json.loads(metadata[key])}, choose).get("", 0))
        else:
            arrays = strange_arrays(arrays, choose)
            arrays = {
                k: v if v.dtype.kind != "U" else v.astype("S").view("u1")
                for k, v in arrays.items()
                if v.ndim or v.dtype.kind != "U"
            }
        return st.save(arrays, metadata=metadata)

    return edit


VRT = b"""<VRTDataset rasterXSize="4" rasterYSize="4"><SRS>EPSG:25832</SRS>
<GeoTransform>0,1,0,0,0,-1</GeoTransform><VRTRasterBand dataType="Byte" band="1"><ComplexSource>
<SourceFilename relativeToVRT="1">t.tif</SourceFilename></ComplexSource></VRTRasterBand></VRTDataset>"""


def targets(folder: Path) -> dict[str, Target]:
    """All readers, with seeds made by the product's own writers."""
    import numpy as np
    import onnx
    import torch
    from PIL import Image

    from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
    from segclip_deploy.artifacts.bundle_record import BUNDLE, BundleRecord, Parents
    from segclip_deploy.artifacts.checkpoint_record import Scores, Training, TrainSettings
    from segclip_deploy.artifacts.engine import golden_path, load_engine, record_path
    from segclip_deploy.artifacts.engine_record import ENGINE, Build, Built, CpuDevice, EngineRecord
    from segclip_deploy.artifacts.files import sha256_file
    from segclip_deploy.artifacts.golden import Golden, load_golden, save_golden
    from segclip_deploy.artifacts.model_spec import ModelSpec, load_spec
    from segclip_deploy.artifacts.onnx_file import check_self_contained, initializer_names, makers
    from segclip_deploy.artifacts.plan import (
        AccuracyLimits,
        Drop,
        Evidence,
        FullEvaluation,
        PrecisionPlan,
        load_plan,
        save_plan,
    )
    from segclip_deploy.artifacts.scheme import Scheme
    from segclip_deploy.artifacts.vocabulary import load_vocabulary
    from segclip_deploy.calibration.table import (
        BandStatistics,
        CalibrationTable,
        CoverageRecord,
        MeasuredTile,
        Range,
        load_table,
        save_table,
    )
    from segclip_deploy.evaluation.dataset_index import read_index
    from segclip_deploy.evaluation.mask import read_mask
    from segclip_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from segclip_deploy.model.text import TextBank, load_text_bank, save_text_bank, unit_rows
    from segclip_deploy.model.torch_file import read_torch_file, tensors_of
    from segclip_deploy.runtime.formats.georeference import find_georeference
    from segclip_deploy.runtime.formats.geotiff import ground_sample_distance
    from segclip_deploy.runtime.inference.frame import read_frame
    from segclip_deploy.runtime.io.pictures import read_picture
    from segclip_deploy.runtime.io.raster.vrt import check_vrt
    from segclip_deploy.runtime.io.sources.video import read_video
    from segclip_deploy.runtime.io.telemetry.exif import read_capture
    from segclip_deploy.runtime.io.telemetry.srt import read_srt
    from segclip_deploy.runtime.targets.compile_cache import CompileCache
    from segclip_deploy.tradeoff.state import load_accuracy, load_latency
    from tests.support import autopilots, recordings

    messages = [*recordings.images(2), *recordings.images(2, recordings.compressed, "/jpeg")]
    messages.append(("/fix", 0, recordings.fix(recordings.START, 46.0, 7.0)))
    messages.append(
        ("/tf", 0, recordings.transform(0, "map", "camera_optical_frame", (0, 0, 0, 1)))
    )
    rng = np.random.default_rng(0)
    vocabulary = load_vocabulary("dubai")
    entry = {"mask_value": 0, "colour": [1, 2, 3], "descriptions": ["a"], "texts": ["b"]}
    small_vocabulary = dump({
        "name": "v", "title": "V", "source": "s", "ground_sample_distance_m": 0.5,
        "ignore_value": 255, "templates": ["a {}"],
        "classes": [{"name": "a", **entry}, {"name": "c", **entry, "mask_value": 1, "colour": [1, 2, 4]}],
    })  # fmt: skip
    bank = TextBank(
        unit_rows(rng.standard_normal((5, 16))), unit_rows(rng.standard_normal((5, 3, 16))), "x"
    )

    def made(name: str, write: Callable[[Path], object]) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    tiles = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    golden = made(
        "golden.npz",
        lambda p: save_golden(
            p, Golden(tiles, tiles[..., 0] % 5, np.zeros((2, 5, 2, 2), np.float32))
        ),
    )
    helper, value = onnx.helper, onnx.helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="net/y")],
        "g", [value("x", 1, [1])], [value("y", 1, [1])],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)]
    ).SerializeToString()

    bundle = folder / "bundle"
    bundle.mkdir()
    (bundle / "model.onnx").write_bytes(model)
    (bundle / "golden.npz").write_bytes(golden)
    spec = ModelSpec(classes=5, text_width=16)
    bundle_record = BundleRecord(
        input=InputSpec(height=8, width=8, batch=2, min_batch=1),
        outputs=("labels",),
        precision="fp32",
        opset=19,
        factory=None,
        model=spec,
        vocabulary=vocabulary,
        text_encoder="x",
        trained_for_int8=(),
        files={name: sha256_file(bundle / name) for name in ("model.onnx", "golden.npz")},
        parents=Parents(checkpoint="c"),
        parity=(),
        folding=(),
        blocks=(),
        tools={},
    )
    record = BUNDLE.dump(bundle_record)
    engine = folder / "e.ort.onnx"
    engine.write_bytes(model)
    golden_path(engine).write_bytes(golden)
    built = Built(
        device=CpuDevice(cpu="x", machine="y", cores=1, flags=()),
        settings={"threads": 1},
        build=Build(seconds=1.0),
    )
    side = ENGINE.dump(
        EngineRecord(
            segclip_deploy="0",
            target="onnxruntime",
            engine_sha256=sha256_file(engine),
            golden_sha256=sha256_file(golden_path(engine)),
            bundle_sha256="b",
            bundle_path="b",
            bytes=len(model),
            arguments=(),
            built=built,
            bundle=bundle_record,
        )
    )

    def read_bundle(path: Path) -> None:
        (bundle / "bundle.json").write_bytes(path.read_bytes())
        load_bundle(bundle)

    def read_engine(path: Path) -> None:
        record_path(engine).write_bytes(path.read_bytes())
        load_engine(engine)

    def read_split(path: Path) -> None:
        (path.parent / "images").mkdir(exist_ok=True)
        read_index(path.parent)

    table = CalibrationTable(
        bundle="b",
        method="entropy",
        ranges={"x": Range(0, 1, 1)},
        tiles=(MeasuredTile("a", 0, 0, "c"),),
        bands=BandStatistics((1, 1, 1), (1, 1, 1)),
        coverage=CoverageRecord(1, 1, 1, 0, 0, 0, {}, {}, 0, 0),
    )
    evaluation = FullEvaluation(Drop(0.1, 0, 0.2), 0.5, {"land": None}, {"land": 0.5})
    evidence = Evidence("plan", 1, AccuracyLimits(0.1), evaluation, {"stem": "why"}, ())
    plan = PrecisionPlan(Scheme.CPU, "b", {"head": "int8", "graph": "fp32"}, evidence)
    scores = Scores(0.5, None, {"land": None}, 9, {"land": 0.5}, ("a",))
    training = Training(TrainSettings(steps=1), step=1, seconds=1.0, plan=scores, torch="2")
    checkpoint = Checkpoint(spec, vocabulary, bank, {"w": torch.zeros(2, 2)}, tiles, training)

    images, exif = [], Image.Exif()
    exif[0x9003], exif[0x8825] = (
        "2024:05:01 10:00:00",
        {1: "N", 2: (1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0), 6: 9.0},
    )
    exif.get_ifd(0x8769)[0xA405] = 24
    for kind, options in (
        ("PNG", {}), ("PNG", {"exif": exif}), ("JPEG", {"exif": exif}), ("JPEG", {"progressive": True}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}), ("BMP", {}), ("WEBP", {}),
    ):  # fmt: skip
        stream = io.BytesIO()
        Image.fromarray(tiles[0]).save(stream, kind, **options)
        images.append(stream.getvalue())
    for mode in ("L", "P", "1", "RGBA", "I;16", "F", "CMYK"):
        stream = io.BytesIO()
        Image.new(mode, (8, 8)).save(stream, "TIFF" if mode in ("F", "CMYK", "I;16") else "PNG")
        images.append(stream.getvalue())
    made("t.tif", geotiff)

    counts = [[1] * 5] * 5
    return {
        "bundle.json": Target("record", read_bundle, [dump(record)], edit_json),
        "engine sidecar": Target("sidecar", read_engine, [dump(side)], edit_json),
        "calibration table": Target("t.json", load_table, [made("t.json", lambda p: save_table(p, table))], edit_json),
        "precision plan": Target("p.yaml", load_plan, [made("p.yaml", lambda p: save_plan(p, plan))], edit_yaml),
        "vocabulary": Target("v.yaml", load_vocabulary, [small_vocabulary], edit_yaml),
        "model spec": Target("s.yaml", load_spec, [dump(spec.to_json())], edit_yaml),
        "text bank npz": Target("b.npz", lambda p: load_text_bank(str(p), vocabulary), [made("b.npz", lambda p: np.savez(p, classes=bank.classes, texts=bank.texts))], edit_npz),
        "text bank safetensors": Target("b.safetensors", lambda p: load_text_bank(str(p), vocabulary), [made("b.safetensors", lambda p: save_text_bank(p, bank))], edit_safetensors("schema")),
        "golden tiles": Target("golden.npz", load_golden, [golden], edit_npz),
        "checkpoint": Target("c.safetensors", load_checkpoint, [made("c.safetensors", lambda p: save_checkpoint(p, checkpoint))], edit_safetensors("segclip_deploy")),
        "PyTorch weights": Target("w.pth", lambda p: tensors_of(read_torch_file(p), p), [made("w.pth", lambda p: torch.save({"model": {"w": torch.zeros(2, 2)}, "epoch": np.float64(1)}, p))]),
        "video": Target("film", lambda p: deque(read_video(p), 0), [made(f"f{end}", film) for end in (".mp4", ".mpg", ".avi", ".mjpeg")]),
        "MCAP": Target("r.mcap", read_recording, [made("r.mcap", lambda p: recordings.write_mcap(p, messages)), made("c.mcap", lambda p: recordings.write_chunks(p, messages))]),
        "MAVLink tlog": Target("l.tlog", read_log, [made("l.tlog", autopilots.write_tlog)]),
        "MAVLink bin": Target("l.bin", read_log, [made("l.bin", autopilots.write_bin)]),
        "DJI subtitles": Target("f.SRT", lambda p: read_srt(p, report=str), [SUBTITLES]),
        "split.json": Target("split.json", read_split, [dump({"train": ["a"], "val": ["b"]})], edit_json),
        "frame": Target("frame", lambda p: both(read_frame, read_mask, p), images),
        "EXIF": Target("frame", read_capture, images),
        "GeoTIFF header": Target("t.tif", lambda p: (find_georeference(p), ground_sample_distance(p)), [made("t.tif", geotiff)]),
        "raster": Target("t.tif", read_picture, [made("t.tif", geotiff)]),
        "VRT": Target("v.vrt", lambda p: check_vrt(p, allow_remote=False), [VRT]),
        "ONNX": Target("m.onnx", lambda p: both(check_self_contained, initializer_names, p, makers), [model]),
        "compile cache": Target("c.compiled", lambda p: CompileCache(p).read(), [made("c.compiled", lambda p: CompileCache(p).write(b"x"))]),
        "sweep accuracy": Target("a.json", lambda p: load_accuracy(p, vocabulary.names), [dump({"schema": 1, "images": ["a"], "counts": [counts], "intersection": [1] * 5, "union": [2] * 5})], edit_json),
        "sweep latency": Target("l.json", load_latency, [dump({"schema": 1, "frame_ms": [1.0], "stages": {"infer": [1.0]}, "windows": [1], "backend": "x"})], edit_json),
    }  # fmt: skip


def dump(data: Any) -> bytes:
    return json.dumps(data).encode()


def both(
    first: Callable[[Path], Any], second: Callable[[Path], Any], path: Path, *more: Any
) -> None:
    """Each reader on the same file, whatever the others say of it."""
    from segclip_deploy.errors import SegclipError

    for read in (first, second, *more):
        with contextlib.suppress(SegclipError):
            read(path)


def read_recording(path: Path) -> None:
    """Every image of a topic, and what lies beside it."""
    from segclip_deploy.runtime.io.sources.recording import RecordingSource, name_recordings

    for topic in ("/camera", "/jpeg"):
        source = RecordingSource(name_recordings([path]), topic=topic)
        deque(source.shots(threading.Event()), 0)


def read_log(path: Path) -> None:
    """A log of MAVLink."""
    from segclip_deploy.runtime.io.telemetry.mavlink import open_telemetry

    with open_telemetry(str(path), report=str):
        pass


def film(path: Path) -> None:
    """Six small frames."""
    import av
    import numpy as np

    codecs = {".mp4": "libx264", ".mpg": "mpeg2video", ".avi": "mpeg4", ".mjpeg": "mjpeg"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codecs[path.suffix], 25)
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuvj420p" if path.suffix == ".mjpeg" else "yuv420p"
        for number in range(6):
            pixels = np.full((32, 48, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


def geotiff(path: Path) -> None:
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", **profile, crs="EPSG:32640", transform=from_origin(0, 0, 1, 1)
    ) as out:
        out.write(np.ones((3, 8, 8), np.uint8))


def child(name: str, seconds: int, found: Path) -> None:
    """Fuzz one reader in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["segclip_deploy", "PIL", "yaml", "json"]):
        from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin  # noqa: F401

        import segclip_deploy.cli  # noqa: F401
        from segclip_deploy.errors import SegclipError

        folder = Path(tempfile.mkdtemp(dir=HERE))
        target = targets(folder)[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(b"\0" + seed)
        (corpus / f"edit{number}").write_bytes(b"\1" + bytes(range(number, number + 24)))
    work = folder / "work"
    work.mkdir()
    path, known = work / target.name, set()

    def once(data: bytes) -> None:
        if not data:
            return
        if data[0] & 1 and target.edit:
            rest = iter(data[1:])

            def choose(n: int) -> int:
                return (next(rest, 0) * 256 + next(rest, 0)) % n if n > 256 else next(rest, 0) % n

            try:
                made = target.edit(target.seeds[0], choose)
            except Exception:  # an edit that no writer can write
                return
        else:
            made = data[1:]
        path.write_bytes(made)
        try:
            target.read(path)
        except SegclipError:
            pass
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = [f for f in frames if "segclip_deploy" in f.filename][-1]
            key = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno} ({error!s:.80})"
            short = re.sub(r"\(.*", "", key)
            if short not in known:
                known.add(short)
                (found / f"{name.replace(' ', '_')}.{len(known)}").write_bytes(made)
                with (found / "crashes.txt").open("a") as file:
                    file.write(f"{name}: {key}\n")

    # Python's own line goes first: libFuzzer reads the rest.
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-rss_limit_mb=2048",
                 "-timeout=300", "-max_len=4096", "-print_final_stats=1", f"-artifact_prefix={found}/"]  # fmt: skip
    atheris.Setup(arguments, once)
    atheris.Fuzz()


NAMES = (
    "bundle.json", "engine sidecar", "calibration table", "precision plan", "vocabulary",
    "model spec", "text bank npz", "text bank safetensors", "golden tiles", "checkpoint",
    "PyTorch weights", "video", "split.json", "frame", "EXIF", "GeoTIFF header", "raster", "VRT", "ONNX", "compile cache", "sweep accuracy",
    "sweep latency",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--found", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.found.mkdir(parents=True, exist_ok=True)
    if given.child:
        child(given.child, given.seconds, given.found)
        return
    seconds = max(1, int(60 * given.minutes / len(given.only)))
    crashes = given.found / "crashes.txt"
    crashes.write_text("")
    tried, failed = {}, []
    for name in given.only:
        command = [sys.executable, __file__, "--child", name, "--seconds", str(seconds)]
        done = subprocess.run(
            ["timeout", "-k", "5", str(seconds + 180), *command, "--found", str(given.found)],
            capture_output=True,
            text=True,
            check=False,
        )
        count = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        tried[name] = int(count[1]) if count else 0
        if done.returncode or not count:
            failed.append(name)
            print(done.stderr[-3000:], file=sys.stderr)
        print(f"{name}: {tried[name]} inputs in {seconds} s", flush=True)
    unique = crashes.read_text().splitlines()
    result = {"seconds_each": seconds, "inputs": tried, "all_inputs": sum(tried.values()),
              "crashes": unique, "processes_that_failed": failed}  # fmt: skip
    from record import record  # not before: a child instruments what it imports

    record("fuzz", [result])
    print(*unique, sep="\n")
    if unique or failed:
        sys.exit(3)


if __name__ == "__main__":
    main()
