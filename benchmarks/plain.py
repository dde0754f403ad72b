# ruff: noqa: T201 - the parent process reads the answer on stdout
"""Answer prompts one by one with plain `generate`, with nothing before or behind it, and say when text came.

The floor that any server for a single client is held against. A process of its own; it reads a question as
JSON on stdin and answers with samples as JSON on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

from benchmarks.measures import Sample


class Stopwatch(BaseStreamer):  # type: ignore[misc]  # transformers publishes no types
    """Note when each new token came."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Note the time; what comes first is the prompt."""
        del value
        if not self._is_prompt:
            self.times_s.append(time.perf_counter())
        self._is_prompt = False

    def end(self) -> None:
        """Do nothing."""


def answer(network: Any, tokenizer: Any, prompt: str, max_tokens: int) -> Sample:  # noqa: ANN401 - transformers publishes no types
    """Answer one prompt, greedily."""
    started_s = time.perf_counter()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(network.device)
    stopwatch = Stopwatch()
    network.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, streamer=stopwatch)
    times_s = tuple(stopwatch.times_s)
    return Sample(started_s, time.perf_counter(), times_s, len(times_s), is_cut=len(times_s) == max_tokens)


def main() -> None:
    """Answer the question on stdin."""
    question = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(question["model"])
    network = AutoModelForCausalLM.from_pretrained(question["model"], dtype="auto", use_safetensors=True)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    for prompt in question["warm_up"]:
        answer(network, tokenizer, prompt, question["warm_up_tokens"])
    samples = [answer(network, tokenizer, prompt, question["max_tokens"]) for prompt in question["prompts"]]
    print(json.dumps([asdict(sample) for sample in samples]))


if __name__ == "__main__":
    main()
