# ruff: noqa: T201 - the parent process reads the samples on stdout
"""Answer prompts one by one with plain `generate`, and record when each token came.

The lower bound for a server with a single client. Runs in a process of its own, which reads a job as JSON on
stdin and writes samples as JSON to stdout.
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
    """A streamer that records the time of each new token."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Record the time; the first value is the prompt."""
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
    """Run the job on stdin."""
    job = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    network = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto", use_safetensors=True)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    for prompt in job["warm_up"]:
        answer(network, tokenizer, prompt, job["warm_up_tokens"])
    samples = [answer(network, tokenizer, prompt, job["max_tokens"]) for prompt in job["prompts"]]
    print(json.dumps([asdict(sample) for sample in samples]))


if __name__ == "__main__":
    main()
