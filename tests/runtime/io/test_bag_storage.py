"""Recordings whose parts are larger than they say, or than anything should be."""

from __future__ import annotations

from pathlib import Path

import lz4.frame
import pytest
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk, Header
from mcap.writer import MCAP0_MAGIC

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.bag_storage import read_mcap

ZEROS = bytes(50_000_000)
PACKED = {"zstd": zstandard.compress(ZEROS), "lz4": lz4.frame.compress(ZEROS), "": b""}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("compression", "size"), [("zstd", 1000), ("lz4", 1000), ("zstd", 1 << 40), ("", 1 << 40)]
)
def test_a_chunk_is_not_unpacked_beyond_what_it_says_and_may_be(
    compression: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []
    real = zstandard.decompress
    monkeypatch.setattr(
        zstandard, "decompress", lambda *a: unpacked.append(len(found := real(*a))) or found
    )
    builder = RecordBuilder()
    Header("ros2", "test").write(builder)
    Chunk(compression, PACKED[compression], 0, 0, 0, size).write(builder)
    path = tmp_path / "bomb.mcap"
    path.write_bytes(MCAP0_MAGIC + builder.end())
    with pytest.raises(BadInput, match="a part of it is damaged, and left out"):
        list(read_mcap(path, {"sensor_msgs/msg/Image"}))
    assert unpacked == []
