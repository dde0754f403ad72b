"""lm-evaluation-harness: multiple choice over `/v1/completions`, against the plain network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

if TYPE_CHECKING:
    from pathlib import Path

    from tests.doubles.remote_server import Server

QUESTIONS: list[dict[str, Any]] = [
    {"question": question, "choices": choices, "answer": answer}
    for question, choices, answer in [
        ("The sky is", ["blue", "green", "a very long answer that nobody would give"], 0),
        ("Two and two are", ["five", "four"], 1),
        ("In the beginning", ["was the Word", "é"], 0),
    ]
]


def write_task(folder: Path) -> None:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    task = {
        "task": "tiny_choices", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}", "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(json.dumps(task))  # JSON is YAML


def test_multiple_choice_is_scored_as_by_the_plain_network(
    tiny_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert tiny_server.folder is not None
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_task(tasks)
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "org/tiny", "base_url": f"{tiny_server.url}/completions", "max_retries": 1,
            "tokenizer": str(tiny_server.folder / "model-cache" / "org" / "tiny"), "max_length": 512,
            "num_concurrent": 2, "batch_size": 2,
        },
        tasks=["tiny_choices"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )  # fmt: skip
    samples = sorted(results["samples"]["tiny_choices"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(QUESTIONS)
    right = 0
    for sample, question in zip(samples, QUESTIONS, strict=True):
        plain = [score(tiny_server, question["question"], f" {choice}") for choice in question["choices"]]
        likelihoods = [float(response[0][0]) for response in sample["resps"]]
        assert likelihoods == pytest.approx([each["likelihood"] for each in plain], abs=1e-3)
        right += likelihoods.index(max(likelihoods)) == question["answer"]
    assert results["results"]["tiny_choices"]["acc,none"] == pytest.approx(right / len(QUESTIONS))


def score(server: Server, context: str, continuation: str) -> Any:
    return server.control("score", {"context": context, "continuation": continuation})
