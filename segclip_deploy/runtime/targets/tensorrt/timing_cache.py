"""The timing cache: what earlier builds measured, kept for one GPU, driver and TensorRT."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.artifacts.engine_record import TimingCacheUse
from segclip_deploy.artifacts.files import locked, replace_file
from segclip_deploy.errors import BadArtifact, StaleArtifact, command
from segclip_deploy.runtime.targets.device import cache_folder
from segclip_deploy.runtime.targets.tensorrt.library import Library, complaints

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TimingCache", "default_path"]


def default_path(key: Mapping[str, str | None]) -> Path:
    """Where the cache of a GPU, driver and version lies, below the user's cache directory."""
    name = re.sub(r"[^\w.-]+", "-", " ".join(value for value in key.values() if value))
    return cache_folder() / f"{name}.timing"


@dataclass(frozen=True)
class TimingCache:
    """A cache file: one line that says what it is of, then the library's own bytes.

    Attributes:
        path: the file; it need not exist yet.
        key: GPU, board, power mode, driver and library it is of.
    """

    path: Path
    key: Mapping[str, str | None]

    def read(self) -> bytes:
        """The library's bytes; empty where there is no file yet.

        Raises:
            BadArtifact: no timing cache of this product.
            StaleArtifact: one of another GPU, driver or version: its times are wrong here.
        """
        try:
            header, _, data = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return b""
        remedy = f"{command('rm', self.path)}, or name another: --timing-cache PATH"
        try:
            stored = json.loads(header)
            differing = [name for name, value in self.key.items() if stored[name] != value]
        except (ValueError, KeyError, TypeError) as error:
            raise BadArtifact("not a timing cache", where=self.path, fix=remedy) from error
        if differing:
            told = ", ".join(f"{k} is {stored[k]}, here {self.key[k]}" for k in differing)
            raise StaleArtifact(
                f"a timing cache from elsewhere ({told})", where=self.path, fix=remedy
            )
        return data

    def attach(self, trt: Library, config: tensorrt.IBuilderConfig) -> int | None:
        """Let a build use what is known; how many measurements that are, where it can be told.

        Raises:
            BadArtifact: the library refuses the bytes.
        """
        cache = config.create_timing_cache(self.read())
        if not config.set_timing_cache(cache, False):
            raise BadArtifact(
                f"refused as a timing cache ({complaints(trt)})",
                where=self.path,
                fix=command("rm", self.path),
            )
        return _entries(cache)

    def store(self, config: tensorrt.IBuilderConfig, known: int | None) -> TimingCacheUse:
        """Add what a build measured to the file, and to what other builds put there meanwhile.

        Args:
            known: what ``attach`` returned.

        Returns:
            how many measurements were known and are new; before TensorRT 10.8 nobody tells.
        """
        cache = config.get_timing_cache()
        after = _entries(cache)
        with locked(self.path):
            meanwhile = self.read()
            if meanwhile:
                cache.combine(config.create_timing_cache(meanwhile), False)
            with replace_file(self.path) as temporary:
                header = json.dumps(dict(self.key)).encode()
                temporary.write_bytes(header + b"\n" + bytes(cache.serialize()))
        new = None if known is None or after is None else after - known
        return TimingCacheUse(path=str(self.path), known=known, new=new)


def _entries(cache: tensorrt.ITimingCache) -> int | None:
    return len(cache.queryKeys()) if hasattr(cache, "queryKeys") else None
