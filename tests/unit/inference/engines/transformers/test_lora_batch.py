"""Hold layers with several adapters to the sums that they stand for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.transformers.fused import interleaved, make_lean
from inference.engines.transformers.lora_batch import BASE, Factors, Mix, MixedLinear, mix_in
from inference.engines.transformers.packing import (
    PackedLinear,
    PackedMixedLinear,
    can_pack,
    pack,
    pack_layers,
)
from inference.engines.transformers.sampling import ROW_KEY, Row, RowSampler
from tests.doubles.tiny import load_base, save_base, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INPUTS, OUTPUTS, TOKENS = 12, 8, 100
RANKS = {1: 2, 3: 5}


@pytest.fixture(autouse=True)
def repeatable() -> None:
    torch.manual_seed(7)


def factors(rank: int, outputs: int = OUTPUTS) -> Factors:
    return Factors(torch.randn(rank, INPUTS), torch.randn(outputs, rank))


def linear(outputs: int = OUTPUTS) -> nn.Linear:
    return nn.Linear(INPUTS, outputs).requires_grad_(requires_grad=False)


def expected(original: nn.Linear, own: dict[int, Factors], rows: torch.Tensor, numbers: Sequence[int]) -> Any:
    sums = [
        original(row) + (own[number].up @ (own[number].down @ row) if number in own else 0)
        for row, number in zip(rows, numbers, strict=True)
    ]
    return torch.stack(sums)


RUNS = [
    [(1, 3)],
    [(3, 1)],
    [(1, 2), (3, 4)],
    [(3, 4), (1, 2), (3, 1)],
    [(BASE, 2), (3, 2)],
    [(2, 2), (1, 1), (BASE, 3), (3, 1)],
    [(2, 4)],
    [(BASE, 5)],
]
needs_packing = pytest.mark.skipif(
    not can_pack("cpu", torch.float32), reason="this torch has no oneDNN to pack for"
)
FORMS = ["plain", pytest.param("packed", marks=needs_packing)]


def mix_linear(original: nn.Linear, own: dict[int, Factors], form: str, adapters: int = 3) -> tuple[Any, Mix]:
    mix = Mix(TOKENS)
    mixed = MixedLinear(original, own, mix, adapters, torch.float32)
    return mixed if form == "plain" else pack_layers([mixed]), mix


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("has_batch", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_row_gets_what_its_own_adapter_adds(
    runs: list[tuple[int, int]],
    has_batch: bool,  # noqa: FBT001 - a parameter of a test
    form: str,
) -> None:
    original, own = linear(), {number: factors(rank) for number, rank in RANKS.items()}
    mixed, mix = mix_linear(original, own, form)
    numbers = [number for number, count in runs for _ in range(count)]
    rows = torch.randn(len(numbers), INPUTS)
    mix.begin_step(runs)
    found = mixed(rows.unsqueeze(0))[0] if has_batch else mixed(rows)
    torch.testing.assert_close(found, expected(original, own, rows, numbers))


@pytest.mark.parametrize("form", FORMS)
def test_the_base_s_rows_are_the_base_s_exactly_whatever_is_beside_them(form: str) -> None:
    mixed, mix = mix_linear(linear(), {1: factors(2), 2: factors(3)}, form)
    rows = torch.randn(6, INPUTS)
    mix.begin_step([(BASE, 6)])
    alone = mixed(rows)
    mix.begin_step([(1, 2), (BASE, 2), (2, 2)])
    found = mixed(rows)
    assert torch.equal(found[2:4], alone[2:4])
    assert not torch.equal(found[:2], alone[:2])


@pytest.mark.parametrize("form", FORMS)
def test_a_step_does_not_remember_the_one_before(form: str) -> None:
    original, own = linear(), {1: factors(2), 2: factors(3)}
    mixed, mix = mix_linear(original, own, form)
    rows = torch.randn(2, INPUTS)
    for numbers in ((1, 2), (2, 1), (2, 2), (BASE, BASE)):
        mix.begin_step([(number, 1) for number in numbers])
        torch.testing.assert_close(mixed(rows), expected(original, own, rows, numbers))


@needs_packing
def test_layers_side_by_side_are_each_other_s_neighbours_with_their_adapters() -> None:
    mix = Mix(TOKENS)
    parts = [linear(8), linear(4), linear(6)]
    own: list[dict[int, Factors]] = [{1: factors(2), 2: factors(3)}, {}, {2: factors(1, 6)}]
    layers = [
        MixedLinear(part, each, mix, 2, torch.float32) if each else part
        for part, each in zip(parts, own, strict=True)
    ]
    order = interleaved(4)
    found = pack_layers(layers, [order, slice(None), slice(None)])
    rows, numbers = torch.randn(3, INPUTS), (2, BASE, 1)
    mix.begin_step([(number, 1) for number in numbers])
    first, *others = (expected(part, each, rows, numbers) for part, each in zip(parts, own, strict=True))
    first = first.view(3, 2, 4)[:, :, order].flatten(1)
    torch.testing.assert_close(found(rows), torch.cat([first, *others], -1))


@needs_packing
def test_a_network_s_mixed_layers_are_packed_with_their_adapters_and_the_others_without() -> None:
    changed, other = linear(), linear()
    mixed = MixedLinear(changed, {1: factors(2)}, Mix(TOKENS), 1, torch.float32)
    network = nn.ModuleDict({"changed": mixed, "other": other, "again": changed})
    pack([network])
    assert isinstance(network["changed"], PackedMixedLinear)
    assert isinstance(network["other"], PackedLinear)
    assert isinstance(network["again"], PackedLinear)


def test_a_prompt_s_mark_tells_the_adapters_apart_and_comes_off() -> None:
    mix = Mix(TOKENS)
    prompts = [mix.mark((99, 0, 5), number) for number in range(4)]
    assert len({prompt[0] for prompt in prompts}) == 4
    assert mix.mark((99, 0, 5), BASE) == [99, 0, 5]
    assert {tuple(mix.unmark(torch.tensor(prompt)).tolist()) for prompt in prompts} == {(99, 0, 5)}


@needs_packing
def test_a_lean_network_keeps_its_adapters_and_lets_their_first_form_go(tmp_path: Path) -> None:
    save_base(tmp_path, word_tokenizer(32))
    network = load_base(tmp_path)
    names = [f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")]
    own = {
        name: Factors(torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2))
        for name in names
        for layer in [network.get_submodule(name)]
    }
    mix_in(network, [own])
    make_lean([network])
    mixed = [module for module in network.modules() if isinstance(module, PackedMixedLinear)]
    assert len(mixed) == 2
    assert not any(isinstance(module, MixedLinear) for module in network.modules())
    assert not any(isinstance(module, nn.Linear) for module in network.model.modules())


def test_the_sampler_tells_the_mix_whose_each_row_is() -> None:
    original, own = linear(), {1: factors(2), 2: factors(3)}
    mixed, mix = mix_linear(original, own, "plain")
    sampler = RowSampler(mix)

    def request(number: int, length: int, *, has_new_token: bool = True) -> Any:
        row = Row(GenerationRequest("r", "m", (1,), 1, Sampling(0.0)), number=number)
        state = SimpleNamespace(logit_processor_kwargs={ROW_KEY: row})
        return SimpleNamespace(state=state, query_length=length, has_new_token=has_new_token)

    sampler.prepare_tensor_args([request(2, 3, has_new_token=False), request(1, 1)], torch.empty(0))
    rows = torch.randn(4, INPUTS)
    torch.testing.assert_close(mixed(rows), expected(original, own, rows, (2, 2, 2, 1)))


@pytest.mark.parametrize("form", FORMS)
def test_what_overflows_in_an_adapter_is_no_other_row_s_trouble(form: str) -> None:
    huge = Factors(torch.full((2, INPUTS), 3e38), torch.ones(OUTPUTS, 2))
    original, own = linear(), {1: huge, 2: factors(3)}
    mixed, mix = mix_linear(original, own, form)
    mix.begin_step([(1, 1), (BASE, 1), (2, 1)])
    rows = torch.full((3, INPUTS), 9.0)
    found = mixed(rows)
    assert not found[0].isfinite().any()
    torch.testing.assert_close(found[1:], expected(original, own, rows[1:], (BASE, 2)))
