"""Packed linear layers, compared with the plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from inference.engines.transformers import packing

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
