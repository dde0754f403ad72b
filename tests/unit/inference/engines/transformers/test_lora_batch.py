"""Layers with several adapters, compared with the sums of base and adapter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.transformers.fused import fuse_layers, interleaved
from inference.engines.transformers.lora_batch import (
    NO_ADAPTER,
    BatchedLoraLinear,
    LoraBatch,
    LoraWeights,
    inject_lora_layers,
)
from inference.engines.transformers.packing import (
    PackedLinear,
    PackedLoraLinear,
    can_pack,
    pack,
    pack_layers,
)
from inference.engines.transformers.rows import ROW_KEY, Row
from inference.engines.transformers.sampling import RowSampler
from tests.doubles.tiny import load_base, save_base, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INPUTS, OUTPUTS, TOKENS = 12, 8, 100
RANKS = {1: 2, 3: 5}


@pytest.fixture(autouse=True)
def repeatable() -> None:
    torch.manual_seed(7)


def lora_weights(rank: int, outputs: int = OUTPUTS) -> LoraWeights:
    return LoraWeights(torch.randn(rank, INPUTS), torch.randn(outputs, rank))


def linear(outputs: int = OUTPUTS) -> nn.Linear:
    return nn.Linear(INPUTS, outputs).requires_grad_(requires_grad=False)


def expected(
    original: nn.Linear, own: dict[int, LoraWeights], rows: torch.Tensor, adapter_ids: Sequence[int]
) -> Any:
    sums = [
        original(row) + (own[adapter_id].lora_b @ (own[adapter_id].lora_a @ row) if adapter_id in own else 0)
        for row, adapter_id in zip(rows, adapter_ids, strict=True)
    ]
    return torch.stack(sums)


RUNS = [
    [(1, 3)],
    [(3, 1)],
    [(1, 2), (3, 4)],
    [(3, 4), (1, 2), (3, 1)],
    [(NO_ADAPTER, 2), (3, 2)],
    [(2, 2), (1, 1), (NO_ADAPTER, 3), (3, 1)],
    [(2, 4)],
    [(NO_ADAPTER, 5)],
]
needs_packing = pytest.mark.skipif(
    not can_pack("cpu", torch.float32), reason="this torch has no oneDNN to pack for"
)
FORMS = ["plain", pytest.param("packed", marks=needs_packing)]


def make_layer(original: nn.Linear, own: dict[int, LoraWeights], form: str) -> tuple[Any, LoraBatch]:
    lora_batch = LoraBatch(TOKENS)
    layer = BatchedLoraLinear(original, own, lora_batch, torch.float32)
    return layer if form == "plain" else pack_layers([layer]), lora_batch


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("has_batch", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_row_gets_what_its_own_adapter_adds(
    runs: list[tuple[int, int]],
    has_batch: bool,  # noqa: FBT001 - a parameter of a test
    form: str,
) -> None:
    original, own = linear(), {adapter_id: lora_weights(rank) for adapter_id, rank in RANKS.items()}
    layer, lora_batch = make_layer(original, own, form)
    adapter_ids = [adapter_id for adapter_id, count in runs for _ in range(count)]
    rows = torch.randn(len(adapter_ids), INPUTS)
    lora_batch.begin_step(runs)
    found = layer(rows.unsqueeze(0))[0] if has_batch else layer(rows)
    torch.testing.assert_close(found, expected(original, own, rows, adapter_ids))


@pytest.mark.parametrize("form", FORMS)
def test_the_base_s_rows_are_the_base_s_exactly_whatever_is_beside_them(form: str) -> None:
    layer, lora_batch = make_layer(linear(), {1: lora_weights(2), 2: lora_weights(3)}, form)
    rows = torch.randn(6, INPUTS)
    lora_batch.begin_step([(NO_ADAPTER, 6)])
    alone = layer(rows)
    lora_batch.begin_step([(1, 2), (NO_ADAPTER, 2), (2, 2)])
    found = layer(rows)
    assert torch.equal(found[2:4], alone[2:4])
    assert not torch.equal(found[:2], alone[:2])


@pytest.mark.parametrize("form", FORMS)
def test_a_step_does_not_remember_the_one_before(form: str) -> None:
    original, own = linear(), {1: lora_weights(2), 2: lora_weights(3)}
    layer, lora_batch = make_layer(original, own, form)
    rows = torch.randn(2, INPUTS)
    for adapter_ids in ((1, 2), (2, 1), (2, 2), (NO_ADAPTER, NO_ADAPTER)):
        lora_batch.begin_step([(adapter_id, 1) for adapter_id in adapter_ids])
        torch.testing.assert_close(layer(rows), expected(original, own, rows, adapter_ids))


@needs_packing
def test_layers_side_by_side_are_each_other_s_neighbours_with_their_adapters() -> None:
    lora_batch = LoraBatch(TOKENS)
    parts = [linear(8), linear(4), linear(6)]
    own: list[dict[int, LoraWeights]] = [
        {1: lora_weights(2), 2: lora_weights(3)},
        {},
        {2: lora_weights(1, 6)},
    ]
    layers = [
        BatchedLoraLinear(part, each, lora_batch, torch.float32) if each else part
        for part, each in zip(parts, own, strict=True)
    ]
    order = interleaved(4)
    found = pack_layers(layers, [order, slice(None), slice(None)])
    rows, adapter_ids = torch.randn(3, INPUTS), (2, NO_ADAPTER, 1)
    lora_batch.begin_step([(adapter_id, 1) for adapter_id in adapter_ids])
    first, *others = (expected(part, each, rows, adapter_ids) for part, each in zip(parts, own, strict=True))
    first = first.view(3, 2, 4)[:, :, order].flatten(1)
    torch.testing.assert_close(found(rows), torch.cat([first, *others], -1))


@needs_packing
def test_a_network_s_batched_layers_are_packed_with_their_adapters_and_the_others_without() -> None:
    changed, other = linear(), linear()
    layer = BatchedLoraLinear(changed, {1: lora_weights(2)}, LoraBatch(TOKENS), torch.float32)
    network = nn.ModuleDict({"changed": layer, "other": other, "again": changed})
    pack([network])
    assert isinstance(network["changed"], PackedLoraLinear)
    assert isinstance(network["other"], PackedLinear)
    assert isinstance(network["again"], PackedLinear)


def test_a_prompt_s_tag_differs_between_adapters_and_is_stripped() -> None:
    lora_batch = LoraBatch(TOKENS)
    prompts = [lora_batch.tag_prefix((99, 0, 5), adapter_id) for adapter_id in range(4)]
    assert len({prompt[0] for prompt in prompts}) == 4
    assert lora_batch.tag_prefix((99, 0, 5), NO_ADAPTER) == [99, 0, 5]
    assert {tuple(lora_batch.strip_tag(torch.tensor(prompt)).tolist()) for prompt in prompts} == {(99, 0, 5)}


@needs_packing
def test_a_fused_network_keeps_its_adapters_and_releases_the_unpacked_layers(tmp_path: Path) -> None:
    save_base(tmp_path, word_tokenizer(32))
    network = load_base(tmp_path)
    names = [f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")]
    own = {
        name: LoraWeights(torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2))
        for name in names
        for layer in [network.get_submodule(name)]
    }
    inject_lora_layers(network, [own])
    fuse_layers([network])
    packed = [module for module in network.modules() if isinstance(module, PackedLoraLinear)]
    assert len(packed) == 2
    assert not any(isinstance(module, BatchedLoraLinear) for module in network.modules())
    assert not any(isinstance(module, nn.Linear) for module in network.model.modules())


def test_the_sampler_sets_the_adapter_of_each_row() -> None:
    original, own = linear(), {1: lora_weights(2), 2: lora_weights(3)}
    layer, lora_batch = make_layer(original, own, "plain")
    sampler = RowSampler(lora_batch)

    def request(adapter_id: int, length: int, *, has_new_token: bool = True) -> Any:
        row = Row(GenerationRequest("r", "m", (1,), 1, Sampling(0.0)), adapter_id=adapter_id)
        state = SimpleNamespace(logit_processor_kwargs={ROW_KEY: row})
        return SimpleNamespace(state=state, query_length=length, has_new_token=has_new_token)

    sampler.prepare_tensor_args([request(2, 3, has_new_token=False), request(1, 1)], torch.empty(0))
    rows = torch.randn(4, INPUTS)
    torch.testing.assert_close(layer(rows), expected(original, own, rows, (2, 2, 2, 1)))


@pytest.mark.parametrize("form", FORMS)
def test_what_overflows_in_an_adapter_is_no_other_row_s_trouble(form: str) -> None:
    huge = LoraWeights(torch.full((2, INPUTS), 3e38), torch.ones(OUTPUTS, 2))
    original, own = linear(), {1: huge, 2: lora_weights(3)}
    layer, lora_batch = make_layer(original, own, form)
    lora_batch.begin_step([(1, 1), (NO_ADAPTER, 1), (2, 1)])
    rows = torch.full((3, INPUTS), 9.0)
    found = layer(rows)
    assert not found[0].isfinite().any()
    torch.testing.assert_close(found[1:], expected(original, own, rows[1:], (NO_ADAPTER, 2)))
