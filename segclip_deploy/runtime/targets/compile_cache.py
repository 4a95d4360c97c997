"""The compile cache: what a library made of a model, found again whole or not at all.

OpenVINO has one of its own (``CACHE_DIR``). It notices a file cut short, but not one of the right
length with other bytes, as a power cut leaves: that it runs, and the labels are wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.runtime.targets.device import cache_folder

__all__ = ["CompileCache"]

_KEPT = 8  # files, the last used; each is about as large as its model
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class CompileCache:
    """One entry: the SHA-256 of what was compiled, then the bytes.

    Best effort: where the disk is full or may not be written, the model is compiled every time.

    Attributes:
        path: the file; it need not exist.
    """

    path: Path

    @classmethod
    def of(cls, library: str, facts: Mapping[str, Any]) -> CompileCache:
        """The entry of a model.

        Args:
            library: for example ``"openvino"``.
            facts: all that the compiled model depends on, as JSON: the model's own SHA-256, the
                library's version, its settings, the processor.
        """
        told = json.dumps(facts, sort_keys=True, allow_nan=False)
        name = hashlib.sha256(told.encode()).hexdigest()
        return cls(cache_folder() / library / f"{name}.compiled")

    def read(self) -> bytes | None:
        """What was compiled; None where there is nothing, or not what was written."""
        try:
            stored = self.path.read_bytes()
        except OSError:
            return None
        digest, compiled = stored[:_DIGEST], stored[_DIGEST:]
        if hashlib.sha256(compiled).digest() != digest:
            return None
        with suppress(OSError):
            os.utime(self.path)  # last used now
        return compiled

    def write(self, compiled: bytes) -> None:
        """Keep it, and of all entries the ``_KEPT`` last used."""
        with suppress(OSError):
            with replace_file(self.path) as temporary, temporary.open("wb") as file:
                file.write(hashlib.sha256(compiled).digest())
                file.write(compiled)
            # The new one stays, whatever the clock was when the others were used.
            others = [entry for entry in self.path.parent.iterdir() if entry != self.path]
            others.sort(key=lambda entry: entry.stat().st_mtime)
            for old in others[: 1 - _KEPT]:
                old.unlink(missing_ok=True)
