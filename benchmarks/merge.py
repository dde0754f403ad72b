"""Merge an adapter into a model and write the result. A separate process, so that its memory is released.

python -m benchmarks.merge MODEL ADAPTER TARGET
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    """Run the command line."""
    model, adapter, target = (Path(argument) for argument in sys.argv[1:])
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto", use_safetensors=True)
    PeftModel.from_pretrained(network, str(adapter)).merge_and_unload().save_pretrained(target)
    # The tokenizer and its configuration, with the end token, are copied from the base unchanged.
    for file in model.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


if __name__ == "__main__":
    main()
