"""Mermaid, which draws the diagrams: fetched once from npm's registry, known by its hash, kept in the cache.

Mermaid is under the MIT licence, © Knut Sveidqvist; the licence's text is in the package that is fetched.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

from platformdirs import user_cache_path

from segclip_deploy.artifacts.files import replace_file

VERSION = "11.17.2"
URL = f"https://registry.npmjs.org/mermaid/-/mermaid-{VERSION}.tgz"
SHA256 = "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8"
"""Of dist/mermaid.min.js in that package."""


def fetch_mermaid() -> Path:
    """Where the script lies, after a download of 18 MB where it has not been fetched before.

    Raises:
        ValueError: what came is not what is known by ``SHA256``.
        OSError: no network, or no room.
    """
    kept = user_cache_path("segclip-deploy") / f"mermaid-{VERSION}.min.js"
    if kept.is_file() and _is_known(kept.read_bytes()):
        return kept
    with urllib.request.urlopen(URL, timeout=60) as answer:
        package = io.BytesIO(answer.read())
    with tarfile.open(fileobj=package) as files:
        member = files.extractfile("package/dist/mermaid.min.js")
        script = member.read() if member else b""
    if not _is_known(script):
        raise ValueError(f"{URL}: dist/mermaid.min.js is another file than when it was chosen")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(kept) as temporary:
        temporary.write_bytes(script)
    return kept


def _is_known(script: bytes) -> bool:
    return hashlib.sha256(script).hexdigest() == SHA256
