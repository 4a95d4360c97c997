"""Make ``text_bank.safetensors`` from stored CLIP ViT-B/16 text embeddings.

    python examples/dubai/make_text_bank.py FOLDER

FOLDER holds .npy tables of embeddings and an index.json that names their rows, prompt and
licence. Only tables under Apache-2.0 or MIT are read, so that the bank may be shipped.
"""

import json
import sys
from pathlib import Path

import numpy as np

from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.model.text import encode_vocabulary, save_text_bank

ENCODER = "OpenAI CLIP ViT-B/16"
LICENCES = ("Apache-2.0", "MIT")


def read_sentences(folder: Path) -> dict[str, np.ndarray]:
    """Embedded sentences → unit embeddings (512,), from the tables that may be shipped."""
    found: dict[str, np.ndarray] = {}
    for name, table in json.loads((folder / "index.json").read_text()).items():
        if table["clip_model"] != ENCODER or table["licence"] not in LICENCES:
            continue
        for row, word in zip(np.load(folder / name), table["names"], strict=True):
            found.setdefault(table["prompt"].replace("{name}", word), row.astype(np.float32))
    return found


def main() -> None:
    """Write the bank beside this script."""
    sentences = read_sentences(Path(sys.argv[1]))
    bank = encode_vocabulary(
        load_vocabulary("dubai"),
        lambda texts: np.stack([sentences[t] for t in texts]),
        encoder=ENCODER,
    )
    out = Path(__file__).with_name("text_bank.safetensors")
    save_text_bank(out, bank)
    print(f"{out.name}: classes {bank.classes.shape}, texts {bank.texts.shape}")


if __name__ == "__main__":
    main()
