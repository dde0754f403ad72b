"""Which tokenizers a server reads for an engine's models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from inference.engines.remote import tokenizers as tokenizers_module
from inference.engines.remote.messages import ModelDescription
from inference.engines.remote.tokenizers import Tokenizers
from inference.settings import Settings


def model(name: str, parent: str | None, tokenizer: str, created: int = 1) -> ModelDescription:
    return ModelDescription(
        name=name,
        parent=parent,
        end_token_ids=frozenset({2}),
        context_tokens=10,
        created=created,
        tokenizer=tokenizer,
    )


BASE = model("base", None, "/base")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are read. Only the base's has a chat template."""
    found: list[str] = []

    def read(source: str, _model: str, _settings: Settings) -> SimpleNamespace:
        found.append(source)
        return SimpleNamespace(chat_template="base's" if source == "/base" else None)

    monkeypatch.setattr(tokenizers_module, "read_tokenizer_from", read)
    return found


def test_each_tokenizer_is_read_once_and_shared_with_adapters_that_have_none(reads: list[str]) -> None:
    tokenizers = Tokenizers(Settings(auth=False))
    shared, own = model("shared", "base", "/base", 2), model("own", "base", "/own", 3)
    for _ in range(2):
        base, first, second = tokenizers.read_models([BASE, shared, own])
    assert reads == ["/base", "/own"]
    assert base.codec._tokenizer is first.codec._tokenizer  # type: ignore[attr-defined]
    # A tokenizer without a template gets the base's, as when the engine reads it.
    assert second.codec._tokenizer.chat_template == "base's"  # type: ignore[attr-defined]
    assert [(each.name, each.parent, each.created) for each in (base, first, second)] == [
        ("base", None, 1),
        ("shared", "base", 2),
        ("own", "base", 3),
    ]


def test_another_version_of_an_adapter_in_the_same_folder_is_read_again(reads: list[str]) -> None:
    tokenizers = Tokenizers(Settings(auth=False))
    tokenizers.read_models([BASE, model("own", "base", "/own", 3)])
    tokenizers.read_models([BASE, model("own", "base", "/own", 4)])
    assert reads == ["/base", "/own", "/own"]


def test_the_prompt_template_is_the_adapters(reads: list[str]) -> None:
    tokenizers = Tokenizers(Settings(auth=False, prompt_template="Q: {}"))
    base, adapter = tokenizers.read_models([BASE, model("shared", "base", "/base")])
    assert (base.codec._prompt_template, adapter.codec._prompt_template) == (None, "Q: {}")  # type: ignore[attr-defined]
    assert reads == ["/base"]
