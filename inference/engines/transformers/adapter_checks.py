"""Check an adapter that PEFT has loaded: all tensors found their place, and merging leaves answers unchanged.

PEFT gives a tensor that is missing from the file its initial, random value, and ignores one that it has no
place for. Of its kinds of adapters, some merge into other weights than those that they compute with. Rounding
hides that in the logits of a network in bfloat16, where those of a plain LoRA adapter differ by a tenth
already; so layers are compared by themselves, in float32.

Source: PEFT 0.21, `utils/save_and_load.py` and `tuners/tuners_utils.py`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from inference.errors import LoadError
from inference.models.weights import EMBEDDING_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from inference.models.weights import Adapter

BASE_KEYS: Final = (*EMBEDDING_KEYS, "lm_head.weight", "embed_out.weight")
"""The tensors of a base that PEFT saves with an adapter, for example because they were resized."""

SAMPLE_ROWS: Final = 4
MAX_MERGE_ERROR: Final = 1e-3
"""The largest root mean square of the difference, relative to the output, between a layer with its adapter
beside it and merged. In float32, rounding accounts for 1e-6."""


def check_tensors(peft_network: Any, adapter: Adapter) -> None:  # noqa: ANN401 - PEFT publishes no types
    """Check that a file has just the tensors that the adapter consists of, and that they are finite numbers.

    Args:
        peft_network: What PEFT returned.
        adapter: The adapter, with the shapes of its file.

    Raises:
        LoadError: If a tensor is missing, is not expected, or has NaN or infinity in the network's precision.
    """
    from peft import get_peft_model_state_dict  # noqa: PLC0415 - slow to import

    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(peft_network, save_embedding_layers=False)
    missing = sorted(tensors.keys() - adapter.shapes.keys())
    extra = sorted(
        key
        for key in adapter.shapes.keys() - tensors.keys()
        if ".base_layer." not in key and not key.endswith(BASE_KEYS)
    )
    if missing:
        raise LoadError(f"its file lacks {len(missing)} of {len(tensors)} tensors, such as {missing[0]}")
    if extra:
        raise LoadError(f"its file has {len(extra)} tensors that belong to no layer, such as {extra[0]}")
    broken = next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise LoadError(f"its tensor {broken} has NaN or infinity")


def find_merge_obstacle(peft_network: Any) -> str | None:  # noqa: ANN401 - see above
    """Return why an adapter cannot be merged; None if merging leaves its answers unchanged.

    Layers of one name and size are compared once for LoRA; for all other kinds each layer is compared.
    """
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - slow to import
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - slow to import

    compared: set[tuple[object, ...]] = set()
    for name, layer in peft_network.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        key = (name.rpartition(".")[2], *(tuple(each.shape) for each in layer.parameters()))
        if isinstance(layer, LoraLayer) and key in compared:
            continue
        compared.add(key)
        try:
            error = _merge_error(layer)
        except Exception as reason:  # noqa: BLE001 - PEFT raises whatever its kinds of layers do
            return f"PEFT cannot merge it ({str(reason).partition(chr(10))[0]})"
        if not error <= MAX_MERGE_ERROR:
            return f"merged, the layer {name} would answer differently, by {error:.1%} of its output"
    return None


def is_peft_module(module: torch.nn.Module) -> bool:
    """Return whether a module is PEFT's, whose weights other modules must not replace."""
    return type(module).__module__.startswith("peft.")


def modules_of_peft(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield all modules that are PEFT's or inside of one that is."""
    for module in network.modules():
        if is_peft_module(module):
            yield from module.modules()


def _merge_error(layer: Any) -> float:  # noqa: ANN401 - see above
    """Return how much merging changes a layer's output for random inputs, relative to the output.

    Zero for a layer whose inputs are not known: PEFT computes with the merged weights of those itself.
    """
    import torch  # noqa: PLC0415 - slow to import; only the loading thread needs it

    inputs = _sample_inputs(layer.get_base_layer())
    if inputs is None:
        return 0.0
    own = copy.deepcopy(layer).float().eval()
    with torch.no_grad():
        expected = own(inputs).clone()
        own.merge()
        difference = own(inputs) - expected
    return float(difference.square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-30))


def _sample_inputs(base_layer: Any) -> torch.Tensor | None:  # noqa: ANN401 - see above
    import torch  # noqa: PLC0415 - see above

    weight, generator = getattr(base_layer, "weight", None), torch.Generator().manual_seed(0)
    if isinstance(base_layer, torch.nn.Embedding):
        return torch.arange(base_layer.num_embeddings, device=base_layer.weight.device).unsqueeze(0)
    if isinstance(base_layer, torch.nn.Linear):
        width = base_layer.in_features
    elif type(base_layer).__name__ == "Conv1D":
        width = base_layer.weight.shape[0]
    elif isinstance(weight, torch.Tensor) and weight.dim() == 1:
        width = weight.shape[0]
    else:
        return None
    return torch.randn(1, SAMPLE_ROWS, width, generator=generator).to(base_layer.weight.device)
