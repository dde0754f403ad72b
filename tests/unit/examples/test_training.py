"""The example's training and evaluation: their arithmetic on a tiny model, and the committed results."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from inference.engines.registry import start_engine
from inference.models.weights import find_weights
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from infra.evaluation.asking import Answer, Candidate, Endpoint
from infra.evaluation.results import make_row, summarize
from infra.models.base_models import ensure_example_base
from tests.doubles.openai_server import listening

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ticket-triage"
sys.path.insert(0, str(EXAMPLE))  # its scripts are run from there, and find each other there

import evaluate  # noqa: E402 - after the line that makes it importable
import tickets  # noqa: E402 - as above
import train  # noqa: E402 - as above

ADAPTER = EXAMPLE / "adapter"

# peft 0.21 still reads it by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def tiny() -> Any:
    """Return a Llama of two layers and random weights, an adapter on it that is not zero any more."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    return get_peft_model(LlamaForCausalLM(config), lora)


def conversations() -> list[train.Example]:
    prefix = (1, 7, 8, 9)
    return [
        train.Example((*prefix, 20, 21, 22, 23, 30, 31, 2), 8),
        train.Example((*prefix, 24, 25, 30, 32, 33, 2), 6),
        train.Example((*prefix, 26, 27, 28, 29, 40, 41, 34, 2), 10),
    ]


def plain_loss(model: Any, examples: list[train.Example]) -> torch.Tensor:
    """Return the loss as transformers computes it: nothing shared, all positions through the output layer."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.tensor([[*example.ids, *[2] * (longest - len(example.ids))] for example in examples])
    lengths = torch.tensor([len(example.ids) for example in examples])[:, None]
    starts = torch.tensor([example.answer_start for example in examples])[:, None]
    at = torch.arange(longest)
    labels = torch.where((at >= starts) & (at < lengths), ids, -100)
    loss: torch.Tensor = model(input_ids=ids, attention_mask=(at < lengths).long(), labels=labels).loss
    return loss


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_leaving_work_out_changes_neither_loss_nor_gradients(tiny: Any) -> None:
    examples = conversations()
    expected, found = plain_loss(tiny, examples), train.answer_loss(tiny, train.collate(examples, 2))

    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(tiny, found), gradients(tiny, expected), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_is_split_where_its_conversations_begin_to_differ() -> None:
    batch = train.collate(conversations(), 2)

    assert batch.prefix.tolist() == [[1, 7, 8, 9]]
    assert batch.ids[1].tolist() == [24, 25, 30, 32, 33, 2, 2, 2]
    assert batch.mask[1].tolist() == [True] * 6 + [False] * 2
    assert batch.is_answer[1].tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_equal_conversations_keep_the_position_that_tells_the_answer() -> None:
    example = train.Example((1, 5, 6, 30, 2), 3)
    batch = train.collate([example, example], 2)

    assert batch.prefix.tolist() == [[1, 5]]
    assert batch.is_answer[0].tolist() == [False, True, True]


def test_an_epoch_has_every_example_once_in_an_order_that_the_seed_decides() -> None:
    examples = [train.Example(tuple(range(length)), 1) for length in range(2, 102)]
    recipe = train.Recipe(epochs=1, batch=8)
    made = [example for batch in train.batches(examples, recipe) for example in batch]

    assert sorted(made, key=lambda example: len(example.ids)) == examples
    assert made == [example for batch in train.batches(examples, recipe) for example in batch]
    assert made != [
        example for batch in train.batches(examples, train.Recipe(epochs=1, seed=8)) for example in batch
    ]


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [train.schedule(step, 100, 0.1) for step in range(100)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ('{"category": "billing", "priority": "low"}', True, True),
        (' {"priority": "low", "category": "billing"}\n', True, True),
        ('Sure! Here it is: {"category": "Billing", "priority": "LOW"}. Anything else?', False, True),
        ('{"category": "billing"}', False, False),
        ('{"category": "billing", "priority": "low", "mood": "bad"}', False, False),
        ('{"category": "billing", "priority": "none"}', False, False),
        ('{"category": ["billing"], "priority": "low"}', False, False),
        ('["billing", "low"]', False, False),
        ("billing, low", False, False),
        ("", False, False),
    ],
)
def test_a_reply_is_parse_strictly_and_leniently(reply: str, strict: bool, lenient: bool) -> None:  # noqa: FBT001
    assert evaluate.parse_strictly(reply).is_valid is strict
    assert evaluate.parse_leniently(reply).is_valid is lenient


def test_scores_are_shares_of_all_tickets() -> None:
    rows = [tickets.Ticket("text", "billing", "low", "train/billing/0", "train/low/0")] * 4
    replies = [
        '{"category": "billing", "priority": "low"}',
        'Answer: {"category": "billing", "priority": "low"}',
        '{"category": "billing", "priority": "high"}',
        "I am sorry to hear that.",
    ]
    candidate = Candidate("tuned", "tuned", Endpoint("http://host/v1"))
    scored = [
        make_row(example, [Answer("tuned", example.name, reply)], evaluate.make_metrics())
        for example, reply in zip(evaluate.make_examples(rows), replies, strict=True)
    ]
    found = summarize("data", evaluate.make_metrics(), [candidate], scored, Path())
    assert evaluate.scores_of(found) == {
        "tuned": {
            "tickets": 4, "exact": 0.25, "exact_lenient": 0.5, "category": 0.75, "priority": 0.5,
            "invalid": 0.5,
        }
    }  # fmt: skip


def test_a_prompt_ends_with_the_ticket_or_has_it() -> None:
    ticket = ({"role": "user", "content": "My lamp is broken."},)
    for prompt in (*evaluate.ZERO_SHOT, *evaluate.FIVE_SHOT):
        messages = prompt(ticket)
        assert "My lamp is broken." in messages[-1]["content"]
        assert evaluate.INSTRUCTIONS in messages[0]["content"]
        assert {tuple(message) for message in messages} == {("role", "content")}


def test_the_base_is_shown_one_example_of_each_category_and_all_priorities() -> None:
    shown = evaluate._worked_examples()

    assert [row.category for row in shown] == list(tickets.CATEGORIES)
    assert {row.priority for row in shown} == set(tickets.PRIORITIES)


def test_the_adapter_is_small_and_nothing_but_safetensors() -> None:
    files = {path.name: path.stat().st_size for path in ADAPTER.iterdir()}

    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(files) == weights | {"README.md", "chat-examples.json"}
    assert sum(files.values()) < 6_000_000


def test_the_adapter_names_its_base_as_the_share_has_it() -> None:
    config = json.loads((ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    recipe = train.Recipe()

    assert config["base_model_name_or_path"] == "model-cache/HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (config["r"], config["target_modules"]) == (recipe.rank, sorted(recipe.targets))


def test_the_readmes_tables_are_those_of_the_results() -> None:
    results = json.loads(evaluate.RESULTS.read_text(encoding="utf-8"))
    readme = evaluate.README.read_text(encoding="utf-8")

    assert evaluate.fill_readme(readme, results) == readme


def test_a_readme_without_the_marked_parts_is_an_error() -> None:
    results = json.loads(evaluate.RESULTS.read_text(encoding="utf-8"))

    with pytest.raises(ValueError, match="has no part between"):
        evaluate.fill_readme("# Ticket triage\n", results)


def test_the_adapter_is_clearly_better_than_the_base_at_its_task() -> None:
    results = json.loads(evaluate.RESULTS.read_text(encoding="utf-8"))
    tuned = results["tuned"]["scores"]["heldout"]

    assert tuned["exact"] >= 0.75
    assert tuned["exact"] - results["base"]["five_shot"]["score"]["exact_lenient"] > 0.6
    assert tuned["exact"] - results["base"]["zero_shot"]["score"]["exact_lenient"] > 0.6


@pytest.mark.model
async def test_the_adapters_score_holds_on_a_sample_of_heldout_tickets(tmp_path: Path) -> None:
    base_id = "HuggingFaceTB/SmolLM2-135M-Instruct"
    for target, folder in (
        (f"model-cache/{base_id}", ensure_example_base()), ("models/ticket-triage/adapter", ADAPTER),
    ):  # fmt: skip
        (tmp_path / target).parent.mkdir(parents=True)
        (tmp_path / target).symlink_to(folder)
    settings = Settings(device="cpu", auth=False, chat_sign_in=False, kv_cache_tokens=4096)
    weights = find_weights(tmp_path, f"model-cache/{base_id}", None)
    started = await asyncio.to_thread(start_engine, weights, settings, lambda _phase, _percent: None)
    service = Service(Limits())
    service.begin_serving(started.engine, started.models)
    app = make_application(service, settings, Identity("", "", "", ""), ChatPage(service))
    sample = tickets.read_tickets("heldout")[::5]
    async with listening(app) as url:
        measure = evaluate.Measure(Endpoint(url), tmp_path / "out")
        found = await asyncio.to_thread(measure.evaluate, "sample", sample, [measure.tuned()], 24)
    await started.engine.close()
    scores = evaluate.scores_of(found)["fine-tuned"]
    assert scores["tickets"] == 60
    assert scores["invalid"] == 0
    assert scores["exact"] >= 0.7
