"""Load a base and its adapters into transformers networks.

The base has one network. An adapter is merged into a second network, or stays unmerged in the base's
network, where it is computed beside the weights: see `lora_batch`. Networks share every tensor that the
adapters leave unchanged. Only safetensors are read, and no code from a model's repository is run, unless the
settings allow it.
"""

from __future__ import annotations

import copy
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from inference.engines.transformers.adapter_checks import check_tensors, find_merge_obstacle
from inference.engines.transformers.lora_batch import NO_ADAPTER, LoraWeights, inject_lora_layers
from inference.errors import LoadError
from inference.models.configuration import base_error, from_pretrained, max_positions, read_config
from inference.models.hardware import choose_attention, detect_hardware
from inference.models.local_copies import Need, local_base
from inference.models.merging import WEIGHT_PRESERVING_INITS
from inference.models.placement import host_memory_bytes, place
from inference.models.tokenizers import end_token_ids, read_adapter_tokenizer, read_tokenizer
from inference.models.weights import RejectedAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from inference.engines.protocol import ProgressCallback
    from inference.engines.transformers.lora_batch import LoraBatch
    from inference.models.hardware import Hardware, Placement
    from inference.models.weights import Adapter, BaseModel, Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

UNBATCHABLE_OPTIONS: Final = (
    "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "target_parameters",
)  # fmt: skip
"""The options of PEFT's configuration for adapters that are more than `lora_a` and `lora_b`. Source: PEFT
0.21, `LoraConfig`."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is served under one name.

    Attributes:
        parent: The base's name, if this is an adapter.
        network: The transformers model, in evaluation mode.
        tokenizer: Its tokenizer, with a chat template if there is one.
        end_token_ids: The tokens that end an answer.
        context_tokens: The number of positions that the model supports, or may use.
        lora_batch: The adapter of each row, if the network serves unmerged adapters.
        adapter_id: This model's id in `lora_batch`.
    """

    name: str
    parent: str | None
    network: Any
    tokenizer: Any
    end_token_ids: frozenset[int]
    context_tokens: int
    lora_batch: LoraBatch | None = None
    adapter_id: int = NO_ADAPTER


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The base and its adapters, and the adapters that cannot be served."""

    models: tuple[LoadedModel, ...]
    rejected: tuple[RejectedAdapter, ...] = ()


def load_models(weights: Weights, settings: Settings, report: ProgressCallback) -> LoadedModels:
    """Load the base and its adapters.

    Raises:
        LoadError: If the base does not fit the hardware or the packages.
    """
    _import_libraries(settings.threads)
    hardware = detect_hardware()
    config = read_config(weights.base, settings)
    placement = place(weights, config, hardware, settings)
    need = Need(0, host_memory_bytes(weights, config, placement, settings), hardware.cpu_free_bytes)
    with local_base(weights.base, need, settings, report) as local:
        report("loading the base model", 30)
        base = load_base(weights.base, config, placement, settings, local.source)
    set_attention(base.network, placement, hardware, settings)
    loaded = load_adapters(base, weights.adapters, placement, settings, report)
    limit = settings.max_context_tokens or base.context_tokens
    models = (replace(model, context_tokens=min(limit, model.context_tokens)) for model in loaded.models)
    return replace(loaded, models=tuple(models))


def load_base(
    base: BaseModel,
    config: Any,  # noqa: ANN401 - a transformers configuration, which has no useful type
    placement: Placement,
    settings: Settings,
    source: str | None = None,
) -> LoadedModel:
    """Load the base's network and tokenizer.

    Args:
        base: The base's source.
        config: What `read_config` returned for it.
        placement: Where and how its weights are loaded.
        settings: Whether pickled weights and the model's own code are allowed.
        source: A copy of the base's folder to load the weights from; None for the base's own.

    Raises:
        LoadError: If transformers cannot load it, with its reason.
    """
    import torch  # noqa: PLC0415 - slow to import; only the loading thread needs it
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    options: dict[str, Any] = {
        "config": config,
        "dtype": getattr(torch, placement.dtype),
        # None prefers safetensors and falls back to pickled weights.
        "use_safetensors": None if settings.allow_pickle else True,
        "weights_only": True,
        "attn_implementation": "sdpa",
        "local_files_only": base.is_local,
    }
    if placement.device == "cuda":
        options["device_map"] = {"": 0}
    if placement.quantization != "none":
        options["quantization_config"] = _quantization_config(placement)
    tokenizer = read_tokenizer(base, settings)
    network = from_pretrained(
        AutoModelForCausalLM, source or base.source, settings, partial(base_error, base), **options
    )
    network.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return _make_loaded_model(base.name, None, network.eval(), tokenizer)


def set_attention(network: Any, placement: Placement, hardware: Hardware, settings: Settings) -> None:  # noqa: ANN401 - see above
    """Set the attention implementation that the settings and the GPU call for.

    Raises:
        LoadError: If the settings require flash attention and it is not available.
    """
    from transformers.utils import is_flash_attn_2_available  # noqa: PLC0415 - slow to import

    obstacle = ""
    if not network._supports_flash_attn:  # noqa: SLF001 - there is no public way
        obstacle = f"{type(network).__name__} does not support it"
    elif not is_flash_attn_2_available():
        obstacle = "the package flash-attn is not installed (install it with: pip install flash-attn)"
    capability = hardware.gpu_capability if placement.device == "cuda" else None
    attention = choose_attention(settings.attention, capability, placement.dtype, obstacle)
    if attention != "sdpa":
        network.set_attn_implementation(attention)


def load_adapters(
    base: LoadedModel,
    adapters: Sequence[Adapter],
    placement: Placement,
    settings: Settings,
    report: ProgressCallback,
) -> LoadedModels:
    """Return the base and its adapters, each in a network of its own or unmerged in the base's network.

    An adapter that does not fit the base is rejected; it leaves the base and the others unchanged.
    """
    models, unmerged = [base], list[dict[str, LoraWeights]]()
    rejected: list[RejectedAdapter] = []
    for index, adapter in enumerate(adapters):
        report("applying the adapters", 60 + 20 * index // len(adapters))
        try:
            tokenizer = read_adapter_tokenizer(base.tokenizer, adapter, settings)
            stays_unmerged = adapter.is_batchable and not placement.merge_adapters
            lora_weights = read_lora_weights(base, adapter) if stays_unmerged else None
            if lora_weights is None:
                is_quantized = placement.quantization != "none"
                models.append(apply_adapter(base, adapter, tokenizer, is_quantized=is_quantized))
                LOGGER.info("adapter %s: in a network of its own", adapter.name)
            else:
                unmerged.append(lora_weights)
                model = _make_loaded_model(adapter.name, base.name, base.network, tokenizer)
                models.append(replace(model, adapter_id=len(unmerged)))
                LOGGER.info("adapter %s: unmerged, batched with the base", adapter.name)
        except LoadError as error:
            rejected.append(RejectedAdapter(adapter.name, str(error)))
    # Last, because the other networks are made from the base's. Without adapters too: one may be added later.
    lora_batch = inject_lora_layers(base.network, unmerged)
    models = [
        replace(model, lora_batch=lora_batch) if model.network is base.network else model for model in models
    ]
    return LoadedModels(tuple(models), tuple(rejected))


def apply_adapter(
    base: LoadedModel,
    adapter: Adapter,
    tokenizer: Any,  # noqa: ANN401 - see above
    *,
    is_quantized: bool,
) -> LoadedModel:
    """Return a copy of the base with the adapter merged, which shares all tensors that it does not change.

    The copy has the adapter unmerged with quantised weights, since the sum would be rounded again, and where
    merging would change the answers.

    Raises:
        LoadError: If the adapter does not fit the base.
    """
    network = copy_sharing_tensors(base.network)
    with _adapter_errors(base, adapter):
        if adapter.embedding_rows is not None:
            _copy_embeddings(network, adapter.embedding_rows)
        peft_network = _load_with_peft(network, adapter)
        obstacle = None if is_quantized else find_merge_obstacle(peft_network)
        if obstacle is not None:
            LOGGER.warning("adapter %s: stays unmerged, which is slower: %s", adapter.name, obstacle)
        if is_quantized or obstacle is not None:
            tuned = peft_network.get_base_model()
        else:
            _copy_merge_targets(peft_network)
            tuned = peft_network.merge_and_unload()
    tuned.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return _make_loaded_model(adapter.name, base.name, tuned.eval(), tokenizer)


def read_lora_weights(base: LoadedModel, adapter: Adapter) -> dict[str, LoraWeights] | None:
    """Return an adapter's weights by the names of the base's layers that it changes.

    None if the adapter cannot be batched: it is more than `lora_a` and `lora_b`, changes the base's weights,
    or is on layers that are not linear.

    Raises:
        LoadError: If the adapter does not fit the base.
    """
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - slow to import
    from torch import nn  # noqa: PLC0415 - slow to import

    with _adapter_errors(base, adapter):
        peft_network = _load_with_peft(copy_sharing_tensors(base.network), adapter)
    (config,) = peft_network.peft_config.values()
    if any(getattr(config, name, None) for name in UNBATCHABLE_OPTIONS):
        return None
    lora_weights: dict[str, LoraWeights] = {}
    for name, layer in peft_network.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base_layer, original = layer.get_base_layer(), base.network.get_submodule(name)
        if not isinstance(base_layer, nn.Linear):
            return None
        if base_layer.weight.data_ptr() != original.weight.data_ptr():
            return None
        (key,) = layer.lora_A
        lora_a, lora_b = layer.lora_A[key].weight, layer.lora_B[key].weight * layer.scaling[key]
        lora_weights[name] = LoraWeights(lora_a.detach(), lora_b.detach())
    _check_precision(base, adapter, lora_weights)
    return lora_weights


def copy_sharing_tensors(network: nn.Module) -> nn.Module:
    """Return a copy of a network's modules over the same tensors."""
    shared: list[object] = [*network.parameters(), *network.buffers()]
    # An 8-bit layer of bitsandbytes moves its scales from the weight to its `state` when it is first used. In
    # a copy of the state they would be missing.
    shared += [module.state for module in network.modules() if hasattr(module, "state")]
    return copy.deepcopy(network, {id(each): each for each in shared})


def _import_libraries(threads: int | None) -> None:
    import torch  # noqa: PLC0415 - slow to import
    import transformers  # noqa: PLC0415 - slow to import

    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)


def _load_with_peft(network: Any, adapter: Adapter) -> Any:  # noqa: ANN401 - see above
    """Load an adapter with PEFT onto a network that shares tensors with the base.

    Some values of `init_lora_weights` move a part of the base's weights into the adapter, and PEFT subtracts
    it from the weights, in place, when it loads such an adapter. Those weights are copied first.
    """
    from peft import PeftConfig, PeftModel  # noqa: PLC0415 - slow to import
    from torch import nn  # noqa: PLC0415 - slow to import

    init = getattr(PeftConfig.from_pretrained(str(adapter.folder)), "init_lora_weights", None)
    if isinstance(init, str) and init not in WEIGHT_PRESERVING_INITS:
        targets = {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in adapter.shapes}
        for name, layer in network.named_modules():
            if name in targets and type(layer) is nn.Linear:
                layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    # PEFT reads a property that transformers has renamed; users can do nothing about it.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    peft_network = PeftModel.from_pretrained(network, str(adapter.folder), low_cpu_mem_usage=False)
    check_tensors(peft_network, adapter)
    return peft_network


@contextmanager
def _adapter_errors(base: LoadedModel, adapter: Adapter) -> Iterator[None]:
    """Turn what PEFT raises for an adapter that does not fit into a `LoadError` of one sentence."""
    try:
        yield
    except Exception as error:
        # PEFT's kinds of adapters raise whatever they come upon.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # torch lists one mismatch a line.
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise LoadError(
            f"the adapter {adapter.name} cannot be applied to {base.name}: {reason.rstrip('.')}"
            " (is it trained for another base? FJARR_BASE_MODEL names the base)"
        ) from error


def _check_precision(base: LoadedModel, adapter: Adapter, lora_weights: Mapping[str, LoraWeights]) -> None:
    """Check that an adapter's weights, its scale included, are finite in the type that the base computes in.

    Rows of other adapters multiply with them too, by zero, and zero times infinity is NaN.
    """
    for name, each in lora_weights.items():
        if not all(part.to(base.network.dtype).isfinite().all() for part in (each.lora_a, each.lora_b)):
            raise LoadError(
                f"the adapter {adapter.name} cannot be applied to {base.name}: its weights for the layer"
                f" {name} are too large for {str(base.network.dtype).removeprefix('torch.')}"
            )


def _make_loaded_model(name: str, parent: str | None, network: Any, tokenizer: Any) -> LoadedModel:  # noqa: ANN401 - see above
    ends = end_token_ids(network.generation_config, tokenizer)
    positions = max_positions(network.config, tokenizer)
    return LoadedModel(name, parent, network, tokenizer, ends, positions)


def _copy_embeddings(network: Any, rows: int) -> None:  # noqa: ANN401 - see above
    """Copy a network's embeddings, and resize them to the number of rows that the adapter brings.

    PEFT copies the adapter's rows into the existing tensors, which would otherwise be the base's.
    """
    from torch import nn  # noqa: PLC0415 - slow to import

    is_tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    for embeddings in (network.get_input_embeddings(), network.get_output_embeddings()):
        embeddings.weight = nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)
    if is_tied:
        network.tie_weights()
    if rows != network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(rows, mean_resizing=False)


def _copy_merge_targets(peft_network: Any) -> None:  # noqa: ANN401 - see above
    """Copy the weights of each layer that an adapter changes: merging adds to them in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - slow to import
    from torch import nn  # noqa: PLC0415 - slow to import

    for module in peft_network.modules():
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            for name, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))


def _quantization_config(placement: Placement) -> Any:  # noqa: ANN401 - see above
    import torch  # noqa: PLC0415 - slow to import
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - slow to import

    if placement.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, placement.dtype),
    )
