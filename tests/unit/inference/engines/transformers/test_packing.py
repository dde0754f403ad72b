"""Packed linear layers, compared with the plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from inference.engines.transformers import packing
from inference.engines.transformers.lora_batch import BatchedLoraLinear, LoraBatch, LoraWeights

pytestmark = pytest.mark.skipif(
    not packing.can_pack("cpu", torch.float32), reason="this torch has no oneDNN to pack for"
)


def network() -> Any:
    """Return two layers, one of them with a bias, and one inside of another module."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(48, 96), nn.Sequential(nn.SiLU(), nn.Linear(96, 40, bias=False)))


@pytest.mark.parametrize("shape", [(1, 48), (8, 48), (300, 48), (1, 5, 48)], ids=str)
def test_a_packed_network_computes_the_same(shape: tuple[int, ...]) -> None:
    plain, packed = network(), network()

    packing.pack([packed])

    rows = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(packed(rows), plain(rows), atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())


def test_a_weight_that_networks_share_is_packed_once() -> None:
    first, second = network(), network()
    second[0].weight, second[0].bias = first[0].weight, first[0].bias

    packing.pack([first, second])

    assert first[0]._weight is second[0]._weight
    assert first[1][1]._weight is not second[1][1]._weight


def test_nothing_is_packed_for_a_gpu() -> None:
    assert not packing.can_pack("cuda", torch.float32)
    assert not packing.can_pack("cpu", torch.float16)


def halves(outputs: int = 40, inputs: int = 48) -> torch.Tensor:
    """Return a weight in float32 as it comes from a file in bfloat16."""
    torch.manual_seed(4)
    return (torch.randn(outputs, inputs) * 0.05).bfloat16().float()


needs_half = pytest.mark.skipif(
    torch.backends.quantized.engine not in {"x86", "fbgemm"}, reason="this torch has no FBGEMM"
)


@needs_half
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 40)], ids=["no bias", "a bias"])
@pytest.mark.parametrize("shape", [(1, 48), (8, 48), (300, 48), (1, 5, 48)], ids=str)
def test_a_weight_from_bfloat16_is_packed_in_half_and_multiplied_in_float32(
    shape: tuple[int, ...], bias: torch.Tensor | None
) -> None:
    weight, rows = halves(), torch.randn(shape)
    layer = packing.pack_linear(weight, bias)
    expected = nn.functional.linear(rows.double(), weight.double(), None if bias is None else bias.double())
    assert isinstance(layer, packing.HalfLinear)
    assert layer.out_features == 40
    torch.testing.assert_close(layer(rows).double(), expected, atol=1e-6, rtol=1e-5)


@needs_half
def test_a_row_gets_the_same_bits_from_a_half_weight_alone_and_beside_others() -> None:
    layer, rows = packing.pack_linear(halves(), None), torch.randn(33, 48)
    together = layer(rows)
    for count in (1, 2, 7, 13, 32):
        assert torch.equal(layer(rows[-count:]), together[-count:])


@needs_half
@pytest.mark.parametrize(
    ("change", "is_half"),
    [
        (2.0**-26, True),
        (65504.0, True),
        (1e-3, False),
        (65536.0, False),
        (-65536.0, False),
        (torch.inf, False),
        (torch.nan, False),
    ],
)
def test_only_a_weight_that_float16_holds_is_packed_in_half(change: float, *, is_half: bool) -> None:
    weight = halves()
    weight[3, 5] = change
    assert packing.fits_half(weight) == is_half
    assert not packing.fits_half(weight.bfloat16())
    assert not packing.fits_half(halves() * 2.0**-12)


@needs_half
def test_adapters_stay_beside_a_half_weight_and_can_be_removed() -> None:
    lora_batch = LoraBatch(100)
    plain = nn.Linear(48, 40, bias=False).requires_grad_(requires_grad=False)
    plain.weight.copy_(halves())
    own = {1: LoraWeights(torch.randn(2, 48), torch.randn(40, 2))}
    original = BatchedLoraLinear(plain, own, lora_batch, torch.float32)
    packed = packing.pack_layers([original])
    rows = torch.randn(3, 48)
    lora_batch.begin_step([(1, 2), (0, 1)])
    assert isinstance(packed, BatchedLoraLinear)
    assert isinstance(packed.base_layer, packing.HalfLinear)
    torch.testing.assert_close(packed(rows), original(rows), atol=1e-5, rtol=1e-5)
