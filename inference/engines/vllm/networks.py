"""The networks that vLLM serves: the base with adapters beside its weights, and a copy for a merged one."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inference.engines.vllm.options import adapter_rank
from inference.errors import LoadError, UnsuitedEngineError
from inference.models.disk import merge_folder, platform_limit_bytes, weights_folder
from inference.models.hardware import detect_hardware
from inference.models.local_copies import Need, local_base
from inference.models.memory import estimate
from inference.models.merged_copies import compute_digest, merge_into_copy
from inference.models.merging import find_lora_obstacle, find_merge_obstacle
from inference.models.tokenizers import read_adapter_tokenizer
from inference.models.weights import Adapter, BaseModel, RejectedAdapter, Weights, stored_bytes
from inference.storage.copying import used_bytes
from inference.storage.filesystems import detect_storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference.engines.protocol import ProgressCallback
    from inference.models.plan import Model, ServingPlan
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """Weights that one engine of vLLM serves.

    Attributes:
        base: The base, or its copy with an adapter merged.
        models: The names of the models that are served with it.
        adapters: The adapters that are applied beside its weights.
    """

    base: BaseModel
    models: tuple[str, ...]
    adapters: tuple[Adapter, ...] = ()


def reject_adapters(weights: Weights, tokenizer: Any, settings: Settings) -> Weights:  # noqa: ANN401 - transformers publishes no types
    """Leave out the adapters that vLLM can neither merge nor apply: loading one would end its processes.

    Raises:
        UnsuitedEngineError: If there is one, and the settings leave the engine open.
    """
    merges = settings.merge_adapters == "on" or (
        settings.merge_adapters == "auto" and len(weights.adapters) == 1
    )
    kept: list[Adapter] = []
    rejected: list[RejectedAdapter] = []
    for adapter in weights.adapters:
        try:
            read_adapter_tokenizer(tokenizer, adapter, settings)
            if not merges or find_merge_obstacle(weights.base, adapter):
                check_lora(adapter)
            kept.append(adapter)
        except LoadError as error:
            if isinstance(error, UnsuitedEngineError) and settings.engine == "auto":
                raise
            rejected.append(RejectedAdapter(adapter.name, str(error)))
    return replace(weights, adapters=tuple(kept), rejected=(*weights.rejected, *rejected))


def check_lora(adapter: Adapter) -> None:
    """Check that vLLM can apply an adapter beside the base's weights.

    Raises:
        UnsuitedEngineError: If it cannot.
    """
    obstacle = find_lora_obstacle(adapter)
    if obstacle:
        raise UnsuitedEngineError(f"{obstacle}, which vLLM does not support: set FJARR_ENGINE=transformers")
    adapter_rank(adapter)


@contextmanager
def local_networks(
    weights: Weights, model: Model, plan: ServingPlan, settings: Settings, report: ProgressCallback
) -> Iterator[tuple[Network, ...]]:
    """Yield the networks, with their files where vLLM reads them fast, for as long as it loads.

    Raises:
        LoadError: If a file cannot be read, or a copy that the settings ask for does not fit.
    """
    memory = 0
    if plan.placement.device == "cpu":
        size = replace(model.size, adapters=())
        memory = estimate(size, plan.placement, settings.kv_cache_tokens).total
    disk = missing_copy_bytes(weights, plan, settings)
    with ExitStack() as stack:
        need = Need(disk, memory, detect_hardware().cpu_free_bytes)
        base = stack.enter_context(local_base(weights.base, need, settings, report))
        networks = []
        for network in make_networks(replace(weights, base=base), plan, settings, report):
            if detect_storage(Path(network.base.source)) == "network" and network.base is not base:
                # A merged copy that is kept on the share, because the local disk is small.
                need = Need(0, memory, detect_hardware().cpu_free_bytes)
                local = stack.enter_context(local_base(network.base, need, settings, report))
                network = replace(network, base=local)  # noqa: PLW2901 - the network, on this machine
            networks.append(network)
        yield tuple(networks)


def make_networks(
    weights: Weights, plan: ServingPlan, settings: Settings, report: ProgressCallback
) -> tuple[Network, ...]:
    """Merge the adapters into copies if the plan says so, and return the networks, the main one first."""
    merged, unmerged = list[Network](), list[Adapter]()
    folder = merge_folder(settings)
    limit = platform_limit_bytes(folder, settings)
    if limit is not None:
        limit -= used_bytes(weights_folder(settings))
    for adapter in weights.adapters:
        copy = None
        if plan.placement.merge_adapters:
            report("merging the adapters", 20)
            copy = merge_into_copy(
                weights.base, adapter, plan.placement.dtype, folder, disk_limit_bytes=limit
            )
        if copy is None:
            unmerged.append(adapter)
            LOGGER.info("adapter %s: beside the base's weights", adapter.name)
        else:
            merged.append(Network(BaseModel(adapter.name, str(copy)), (adapter.name,)))
            LOGGER.info("adapter %s: merged, in a network of its own", adapter.name)
    names = (weights.base.name, *(adapter.name for adapter in unmerged))
    return (*merged, Network(weights.base, names, tuple(unmerged)))


def missing_copy_bytes(weights: Weights, plan: ServingPlan, settings: Settings) -> int:
    """Return the size of the merged copies that `make_networks` is going to write to the local disk."""
    folder, base = merge_folder(settings), weights.base
    if not plan.placement.merge_adapters or folder.is_relative_to(settings.mount):
        return 0
    digests = (compute_digest(base, adapter, plan.placement.dtype) for adapter in weights.adapters)
    return sum(not (folder / digest).is_dir() for digest in digests) * stored_bytes(base)


def check_adapters(networks: Sequence[Network], model: Model) -> None:
    """Check that vLLM can apply the adapters that are not merged.

    Raises:
        UnsuitedEngineError: If it cannot.
    """
    if model.lora_obstacle and any(network.adapters for network in networks):
        raise UnsuitedEngineError(
            f"{model.lora_obstacle}, which vLLM does not support: set FJARR_ENGINE=transformers"
        )
