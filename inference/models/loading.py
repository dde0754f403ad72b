"""Load weights into module trees.

There is one for the base. An adapter gets another, into which it is merged, or is mixed into the base's,
where it stays beside the weights: see `mixing`. Trees share every tensor that the adapters leave alone. Only
safetensors are read, and no code from a model's repository is run, unless the settings allow it.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Final

from inference.engines.catalogue import QUANTIZATION_REQUIREMENTS, has_package
from inference.engines.transformers.lora_batch import BASE, Factors, mix_in
from inference.errors import LoadError
from inference.models.hardware import Placement, choose, choose_attention, look
from inference.models.memory import check_memory, fits, measure, reckon
from inference.service.service import ServedModel
from inference.text.codec import TokenizerCodec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from inference.engines.transformers.lora_batch import Mix
    from inference.models.hardware import Hardware
    from inference.models.memory import ModelSize
    from inference.models.weights import Adapter, BaseModel, Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

ProgressCallback = Callable[[str, int], None]
"""Called with the phase that begins and the percentage of the start-up that is complete."""

UNMIXABLE_FORMS: Final = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication")
"""What PEFT's configuration says of adapters that are more than two factors a layer. Source: PEFT 0.21,
`LoraConfig`."""

HARMLESS_BEGINNINGS: Final = ("gaussian", "orthogonal", "eva")
"""The ways to begin a training, of the named ones, that leave the base's weights alone. Source: as above."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Hold what serves under one name.

    Attributes:
        parent: The base's name, if this is an adapter.
        network: The transformers model, in evaluation mode.
        tokenizer: Its tokenizer, with a chat template if there is one.
        end_token_ids: The tokens that end an answer.
        context_tokens: How many positions the model knows, or may use.
        mix: What tells the network whose each row is, if it answers as several models.
        number: This model's in the mix.
    """

    name: str
    parent: str | None
    network: Any
    tokenizer: Any
    end_token_ids: frozenset[int]
    context_tokens: int
    mix: Mix | None = None
    number: int = BASE


def load_models(weights: Weights, settings: Settings, report: ProgressCallback) -> tuple[LoadedModel, ...]:
    """Load the base and the adapters on it.

    Raises:
        LoadError: If the files do not fit each other, the hardware or the packages.
    """
    _import_libraries(settings.threads)
    report("loading the base model", 30)
    hardware = look()
    config = read_config(weights.base, settings)
    placement = place(weights, config, hardware, settings)
    base = load_base(weights.base, config, placement, settings)
    set_attention(base.network, placement, hardware, settings)
    models = apply_adapters(base, weights.adapters, placement, settings, report)
    limit = settings.max_context_tokens or base.context_tokens
    return tuple(replace(model, context_tokens=min(limit, model.context_tokens)) for model in models)


def apply_adapters(
    base: LoadedModel,
    adapters: Sequence[Adapter],
    placement: Placement,
    settings: Settings,
    report: ProgressCallback,
) -> tuple[LoadedModel, ...]:
    """Return the base and its adapters, each merged into weights of its own or mixed into the base's network.

    Raises:
        LoadError: If an adapter does not fit the base.
    """
    models, mixed = [base], list[dict[str, Factors]]()
    for number, adapter in enumerate(adapters):
        report("applying the adapters", 60 + 20 * number // len(adapters))
        is_to_be_mixed = adapter.is_mixable and not placement.are_adapters_merged
        factors = read_factors(base, adapter) if is_to_be_mixed else None
        if factors is None:
            is_quantized = placement.quantization != "none"
            models.append(apply_adapter(base, adapter, settings, is_quantized=is_quantized))
            LOGGER.info("adapter %s: has weights of its own", adapter.name)
        else:
            mixed.append(factors)
            tokenizer = adapter_tokenizer(base.tokenizer, adapter, settings)
            described = _describe(adapter.name, base.name, base.network, tokenizer)
            models.append(replace(described, number=len(mixed)))
            LOGGER.info("adapter %s: is computed beside the base's weights", adapter.name)
    if not mixed:
        return tuple(models)
    # Only now, as the other networks are made from the base's.
    mix = mix_in(base.network, mixed)
    return tuple(replace(model, mix=mix) if model.network is base.network else model for model in models)


def place(weights: Weights, config: Any, hardware: Hardware, settings: Settings) -> Placement:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Choose where and how weights are loaded, and see that they fit.

    A single adapter is merged where there is room for the weights that this makes, and quantised weights are
    never merged into: the sum would be rounded again.

    Raises:
        LoadError: If the hardware or the packages cannot do what the settings ask for, or memory is short.
    """
    size = measure(weights, bytes_per_cached_token(config, 1))
    is_free, are_few = settings.merge_adapters == "auto", len(weights.adapters) <= 1
    are_merged = are_few if is_free else settings.merge_adapters == "on"
    placement = _choose_form(hardware, settings, size, are_merged=are_merged)
    is_whole = placement.quantization == "none" and fits(hardware, placement, size, settings.kv_cache_tokens)
    if is_free and are_merged and not is_whole:
        placement = _choose_form(hardware, settings, size, are_merged=False)
    if placement.quantization != "none" and not has_package("bitsandbytes"):
        raise LoadError(
            f"the weights are to be quantised ({placement.quantization}), and the package bitsandbytes is not"
            f" installed (install it with: pip install -r {QUANTIZATION_REQUIREMENTS}; a container does so by"
            f" itself with FJARR_QUANTIZATION={placement.quantization})"
        )
    check_memory(hardware, placement, size, settings.kv_cache_tokens)
    LOGGER.info(
        "device: %s, dtype: %s, quantisation: %s", placement.device, placement.dtype, placement.quantization
    )
    return placement


def read_config(base: BaseModel, settings: Settings) -> Any:  # noqa: ANN401 - a transformers configuration, as above
    """Read what the base's configuration says.

    Raises:
        LoadError: If transformers cannot, with its reason.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - slow to import

    return _from_pretrained(AutoConfig, base.source, settings, partial(load_error, base))


def load_base(base: BaseModel, config: Any, placement: Placement, settings: Settings) -> LoadedModel:  # noqa: ANN401 - a transformers configuration, as above
    """Load the base's network and tokenizer.

    Args:
        base: Where it is.
        config: What `read_config` returned for it.
        placement: Where and how its weights are loaded.
        settings: What else was asked for.

    Raises:
        LoadError: If transformers cannot, with its reason.
    """
    import torch  # noqa: PLC0415 - slow to import; only the loading thread needs it
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    options: dict[str, Any] = {
        "config": config,
        "dtype": getattr(torch, placement.dtype),
        # None takes safetensors where there are some.
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
    network = _from_pretrained(
        AutoModelForCausalLM, base.source, settings, partial(load_error, base), **options
    )
    network.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return _describe(base.name, None, network.eval(), tokenizer)


def read_tokenizer(base: BaseModel, settings: Settings) -> Any:  # noqa: ANN401 - a transformers tokenizer, which has no useful type
    """Read the base's tokenizer.

    Raises:
        LoadError: If transformers cannot, with its reason.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    return _from_pretrained(AutoTokenizer, base.source, settings, partial(load_error, base))


def load_error(base: BaseModel, error: Exception) -> LoadError:
    """Say why a base cannot be loaded, and what to do where that is known."""
    if "trust_remote_code" in str(error):
        return LoadError(
            f"the base model {base.name} needs code that lies beside its weights, and no such code is run:"
            " take a model that transformers knows, or set FJARR_TRUST_REMOTE_CODE=on if you trust whoever"
            " wrote it"
        )
    return LoadError(f"the base model {base.name} cannot be loaded from {base.source}: {error}")


def set_attention(network: Any, placement: Placement, hardware: Hardware, settings: Settings) -> None:  # noqa: ANN401 - see above
    """Give a network the attention that the settings and the card ask for.

    Raises:
        LoadError: If flash attention is asked for and cannot be had.
    """
    from transformers.utils import is_flash_attn_2_available  # noqa: PLC0415 - slow to import

    lacks = ""
    if not network._supports_flash_attn:  # noqa: SLF001 - there is no public way
        lacks = f"{type(network).__name__} has none"
    elif not is_flash_attn_2_available():
        lacks = "the package flash-attn is not installed (install it with: pip install flash-attn)"
    capability = hardware.gpu_capability if placement.device == "cuda" else None
    attention = choose_attention(settings.attention, capability, placement.dtype, lacks)
    if attention != "sdpa":
        network.set_attn_implementation(attention)


def apply_adapter(
    base: LoadedModel, adapter: Adapter, settings: Settings, *, is_quantized: bool
) -> LoadedModel:
    """Return the base with the adapter in it, sharing what the adapter does not touch.

    Quantised weights are not merged into: the sum would be rounded again. There the adapter stays beside
    them.

    Raises:
        LoadError: If the adapter does not fit the base.
    """
    network = share(base.network)
    tokenizer = adapter_tokenizer(base.tokenizer, adapter, settings)
    with _explained(base, adapter):
        if adapter.embedding_rows is not None:
            _fit_embeddings(network, adapter.embedding_rows)
        peft_network = _put_on(network, adapter)
        if is_quantized:
            tuned = peft_network.get_base_model()
        else:
            _own_what_merging_writes(peft_network)
            tuned = peft_network.merge_and_unload()
    tuned.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return _describe(adapter.name, base.name, tuned.eval(), tokenizer)


def read_factors(base: LoadedModel, adapter: Adapter) -> dict[str, Factors] | None:
    """Return what an adapter adds to which layer of the base, by the layers' names.

    None if it does more than that, changes the base's weights, or sits on other layers than linear ones: such
    an adapter is to be applied.

    Raises:
        LoadError: If the adapter does not fit the base.
    """
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - slow to import
    from torch import nn  # noqa: PLC0415 - slow to import

    with _explained(base, adapter):
        peft_network = _put_on(share(base.network), adapter)
    (config,) = peft_network.peft_config.values()
    if any(getattr(config, name, None) for name in UNMIXABLE_FORMS):
        return None
    factors: dict[str, Factors] = {}
    for name, layer in peft_network.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        original, shared = layer.get_base_layer(), base.network.get_submodule(name)
        if not isinstance(original, nn.Linear) or original.weight.data_ptr() != shared.weight.data_ptr():
            return None
        (key,) = layer.lora_A
        down, up = layer.lora_A[key].weight, layer.lora_B[key].weight * layer.scaling[key]
        factors[name] = Factors(down.detach(), up.detach())
    return factors


def share(network: nn.Module) -> nn.Module:
    """Return a second tree of modules over the same tensors."""
    kept: list[object] = [*network.parameters(), *network.buffers()]
    # A layer of bitsandbytes in 8 bits takes its scales out of the weight when it is first used, and keeps
    # them here. In a second state they would be missing.
    kept += [module.state for module in network.modules() if hasattr(module, "state")]
    return copy.deepcopy(network, {id(each): each for each in kept})


def bytes_per_cached_token(config: Any, itemsize: int) -> int:  # noqa: ANN401 - a transformers configuration, as above
    """Return the size of one token's keys and values over all layers, at some bytes a number."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * itemsize)


def known_positions(config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - see above
    """Return how many positions a model knows."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions or tokenizer.model_max_length)


def end_token_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401 - see above
    """Return the tokens that end an answer: those of the model's generation and the tokenizer's own."""
    ends = generation_config.eos_token_id
    return frozenset({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})


def serve(
    name: str,
    parent: str | None,
    tokenizer: Any,  # noqa: ANN401 - see above
    ends: frozenset[int],
    settings: Settings,
) -> ServedModel:
    """Describe a loaded model to the service."""
    # The template belongs to the adapter's training; the base beside it has its own way to be asked.
    template = settings.prompt_template if parent is not None else None
    return ServedModel(name, parent, TokenizerCodec(tokenizer, template), ends, int(time.time()))


def adapter_tokenizer(base_tokenizer: Any, adapter: Adapter, settings: Settings) -> Any:  # noqa: ANN401 - see above
    """Return the adapter's own tokenizer, which knows the tokens that its training added, or the base's.

    Raises:
        LoadError: If its own cannot be read.
    """
    if not adapter.has_tokenizer:
        return base_tokenizer
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    def explain(error: Exception) -> LoadError:
        return LoadError(f"the tokenizer of the adapter {adapter.name} cannot be loaded: {error}")

    tokenizer = _from_pretrained(AutoTokenizer, str(adapter.folder), settings, explain)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = base_tokenizer.chat_template
    return tokenizer


def _choose_form(hardware: Hardware, settings: Settings, size: ModelSize, *, are_merged: bool) -> Placement:
    form = Placement("cpu", "bfloat16", "none", are_adapters_merged=are_merged)
    need = reckon(size, form, None)
    placement = choose(
        hardware, settings.device, settings.dtype, settings.quantization, need.base + need.adapters
    )
    return replace(placement, are_adapters_merged=are_merged and placement.quantization == "none")


def _import_libraries(threads: int | None) -> None:
    import torch  # noqa: PLC0415 - slow to import
    import transformers  # noqa: PLC0415 - slow to import

    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)


def _from_pretrained(
    reader: Any,  # noqa: ANN401 - one of transformers' Auto classes, which have no useful type
    source: str,
    settings: Settings,
    explain: Callable[[Exception], LoadError],
    **options: Any,  # noqa: ANN401 - what the Auto class takes
) -> Any:  # noqa: ANN401 - what the Auto class makes
    """Let transformers read something, and say in our words why it cannot."""
    try:
        return reader.from_pretrained(source, trust_remote_code=settings.trust_remote_code, **options)
    except (OSError, ValueError, ImportError, RuntimeError, UnpicklingError) as error:
        raise explain(error) from error


def _put_on(network: Any, adapter: Adapter) -> Any:  # noqa: ANN401 - see above
    """Let PEFT put an adapter on a shared tree.

    Some ways to begin a training take a part of the base's weights into the factors, and PEFT takes it out of
    the weights again when it loads such an adapter. Then these are the tree's own.
    """
    from peft import PeftConfig, PeftModel  # noqa: PLC0415 - slow to import
    from torch import nn  # noqa: PLC0415 - slow to import

    beginning = getattr(PeftConfig.from_pretrained(str(adapter.folder)), "init_lora_weights", None)
    if isinstance(beginning, str) and beginning not in HARMLESS_BEGINNINGS:
        targets = {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in adapter.shapes}
        for name, layer in network.named_modules():
            if name in targets and type(layer) is nn.Linear:
                layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    # PEFT looks at a property that transformers has renamed; a user can do nothing about it.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    return PeftModel.from_pretrained(network, str(adapter.folder), low_cpu_mem_usage=False)


@contextmanager
def _explained(base: LoadedModel, adapter: Adapter) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
        raise LoadError(
            f"the adapter {adapter.name} cannot be applied to {base.name}: {error}"
            " (is it trained for another base? FJARR_BASE_MODEL names the base)"
        ) from error


def _describe(name: str, parent: str | None, network: Any, tokenizer: Any) -> LoadedModel:  # noqa: ANN401 - see above
    ends = end_token_ids(network.generation_config, tokenizer)
    positions = known_positions(network.config, tokenizer)
    return LoadedModel(name, parent, network, tokenizer, ends, positions)


def _fit_embeddings(network: Any, rows: int) -> None:  # noqa: ANN401 - see above
    """Give a tree embeddings of its own, with as many rows as the adapter carries.

    PEFT copies the adapter's rows into the tensors that it finds, which would otherwise be the base's.
    """
    from torch import nn  # noqa: PLC0415 - slow to import

    is_tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    for embeddings in (network.get_input_embeddings(), network.get_output_embeddings()):
        embeddings.weight = nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)
    if is_tied:
        network.tie_weights()
    if rows != network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(rows, mean_resizing=False)


def _own_what_merging_writes(peft_network: Any) -> None:  # noqa: ANN401 - see above
    """Give each layer that an adapter sits on a weight of its own: merging adds to it in place."""
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
