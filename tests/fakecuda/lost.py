"""Runs a command whose GPU is lost at the fourth call of a function of the driver.

python -m tests.fakecuda.lost BUNDLE FUNCTION run ENGINE …
"""

from __future__ import annotations

import sys
from pathlib import Path

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.cli import main
from tests.fakecuda.engine import install

if __name__ == "__main__":
    state = install()
    state.bundle = load_bundle(Path(sys.argv[1]))
    state.driver.inject(3, 700, sys.argv[2], often=True)
    main(sys.argv[3:])
