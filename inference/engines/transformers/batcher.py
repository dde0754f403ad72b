"""A batcher: a network, its manager and the manager's key-value cache.

A manager schedules in a thread of its own; everything that touches large tensors runs in one more thread, for
all batchers, a step at a time in the order of arrival. Two steps at once on the same cores or the same GPU
would each take more than twice as long. On a CPU, each thread that has ever computed, if only to fill a cache
with zeros, keeps helper threads; with more of them than cores they no longer spin while they wait for the
next operator, and a step takes up to 1.7 times as long. An idle batcher waits on an event and uses no
processor time.

Results reach the event loop through the handlers that `submit` registers. A request with a grammar is passed
to the manager once the grammar is compiled, in another thread.

Source: transformers 5.23, `generation/continuous_batching/continuous_api.py`. Of what is not public, this
module relies on `_generation_step`, `_create_batch_processor`, `_wake_up_loop`, `logit_processor`,
`output_router`, `cache.search_prefix_match`, `cache.mark_complete_blocks` and `scheduler.waiting_requests`;
the version is pinned, and `tests/unit/inference/engines/transformers/test_engine.py` runs the real manager.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.continuous_api import BackgroundThreadStatus
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from inference.engines.protocol import GenerationRequest, Increment, TokenStream
from inference.engines.transformers import attention
from inference.engines.transformers.constraint import Vocabulary
from inference.engines.transformers.isolation import CacheGuard, needs_guard
from inference.engines.transformers.prompt_logprobs import PromptScorer
from inference.engines.transformers.rows import ROW_KEY, Row
from inference.engines.transformers.sampling import RowSampler
from inference.errors import EngineError, RequestRefusedError
from inference.models.hardware import PAGE_TOKENS, CacheSize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from inference.engines.transformers.loading import LoadedModel

T = TypeVar("T")

LOGGER: Final = logging.getLogger(__name__)
STOP_TIMEOUT_S: Final = 10.0


class SchedulingManager(ContinuousBatchingManager):  # type: ignore[misc]  # transformers publishes no types
    """A manager that schedules in its own thread and computes in another.

    Attributes:
        guard: Watches the cache; None for attention that needs none.
        is_stopping: Set when it was told to stop, after which the thread for steps may be gone.
    """

    guard: CacheGuard | None = None
    is_stopping = False

    def __init__(self, steps: ThreadPoolExecutor, **options: Any) -> None:  # noqa: ANN401 - the base class's options
        super().__init__(**options)
        self._steps = steps

    def _create_batch_processor(self) -> Any:  # noqa: ANN401 - the base class's, which has no type
        processor = self._compute(super()._create_batch_processor)
        # It fills tensors, which are large if the attention uses a mask.
        prepare = processor.prepare_next_batch
        processor.prepare_next_batch = lambda: self._compute(prepare)
        search = processor.cache.search_prefix_match

        def search_unless_scored(request_id: str, token_ids: list[int]) -> int:
            """Skip the cache for prompts whose log-probabilities are needed: it has no scores."""
            state = processor.scheduler.waiting_requests[request_id]
            row: Row = state.logit_processor_kwargs[ROW_KEY]
            return 0 if row.request.prompt_logprobs is not None else int(search(request_id, token_ids))

        processor.cache.search_prefix_match = search_unless_scored
        share = processor.cache.mark_complete_blocks

        def share_unless_failed(state: Any, complete_blocks: Any) -> None:  # noqa: ANN401 - transformers' own
            """Share no keys and values of a failed request: others with its prefix have to fail as well."""
            row: Row = state.logit_processor_kwargs[ROW_KEY]
            if row.error is None:
                share(state, complete_blocks)

        processor.cache.mark_complete_blocks = share_unless_failed
        if self.guard is not None:
            self.guard.watch(processor.cache)
        return processor

    def _generation_step(self) -> None:
        self._compute(super()._generation_step)

    def _compute(self, step: Callable[[], T]) -> T:
        """Run a part of a step in the thread for steps, and return its result.

        Raises:
            SystemExit: If that thread has been stopped. transformers logs any other error with a traceback,
                while this one ends the thread without a word.
        """
        try:
            future = self._steps.submit(step)
        except RuntimeError:
            if self.is_stopping:
                raise SystemExit from None
            raise
        return future.result()


@dataclass(frozen=True, slots=True)
class BatcherModel:
    """What a batcher knows of a model.

    Attributes:
        context_tokens: The maximum number of tokens of prompt and answer together.
        embedded_tokens: The number of token ids that the network has embeddings for.
        adapter_id: Its id in the network's `LoraBatch`.
    """

    context_tokens: int
    end_token_ids: frozenset[int]
    vocabulary: Vocabulary
    embedded_tokens: int
    adapter_id: int

    @classmethod
    def of(cls, model: LoadedModel, cache: CacheSize) -> Self:
        """Describe a loaded model that is served with a cache of this size."""
        width = model.network.config.get_text_config().vocab_size
        return cls(
            min(model.context_tokens, cache.tokens),
            model.end_token_ids,
            Vocabulary(model.tokenizer, model.end_token_ids, width),
            model.network.get_input_embeddings().weight.shape[0],
            model.adapter_id,
        )

    def check_prompt(self, request: GenerationRequest) -> None:
        """Refuse token ids that the network has no embedding for: they would end the step for all requests.

        A tokenizer can have more tokens than the network, for example after its training added some.
        """
        unknown = [token for token in request.prompt_token_ids if not 0 <= token < self.embedded_tokens]
        if unknown:
            raise RequestRefusedError(
                f"the prompt has the token {unknown[0]}, and the model {request.model} has embeddings for the"
                f" tokens 0 to {self.embedded_tokens - 1}"
            )


@dataclass(slots=True)
class _OpenRequest:
    stream: TokenStream
    row: Row
    model: BatcherModel
    delivered: int = 0


class Batcher:
    """The requests of a network's models.

    Args:
        models: Models with the same network.
        cache: The size of the key-value cache.
        manager: The network's manager, which has not been started.

    Attributes:
        models: The models that requests are accepted for, by name.
        open: The requests that have not ended.
    """

    def __init__(self, models: Sequence[LoadedModel], cache: CacheSize, manager: SchedulingManager) -> None:
        self.models = {model.name: BatcherModel.of(model, cache) for model in models}
        self.open: dict[str, _OpenRequest] = {}
        self._counter = itertools.count()
        self._compiling: set[asyncio.Task[None]] = set()
        self._has_ended = asyncio.Event()
        self._lora_batch = models[0].lora_batch
        self._manager = manager
        self._manager.start()

    @property
    def is_alive(self) -> bool:
        """Return whether its thread is running."""
        return bool(self._manager.is_running()) and self._manager.background_thread_status.fatal_error is None

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Pass a request to the manager, or first have its grammar compiled.

        Raises:
            EngineError: If the manager has stopped.
            RequestRefusedError: If the network has no embeddings for a token.
        """
        # Clients choose the ids of their requests, so they are not unique.
        request_id = f"{request.request_id}-{next(self._counter)}"
        stream = TokenStream(lambda: self._cancel(request_id))
        model = self.models[request.model]
        model.check_prompt(request)
        row = Row(request, adapter_id=model.adapter_id, end_token_ids=model.end_token_ids)
        self.open[request_id] = _OpenRequest(stream, row, model)
        if request.grammar is not None:
            task = asyncio.get_running_loop().create_task(
                self._compile(request_id, row, model, request.grammar)
            )
            self._compiling.add(task)
            task.add_done_callback(self._compiling.discard)
            return stream
        try:
            self._add(request_id, row)
        except EngineError:
            self._forget(request_id)
            raise
        return stream

    async def _compile(self, request_id: str, row: Row, model: BatcherModel, grammar: str) -> None:
        """Compile a request's grammar, then pass the request to the manager, unless it has ended."""
        try:
            row.constraint = await asyncio.to_thread(model.vocabulary.constrain, grammar)
            if request_id in self.open:
                self._add(request_id, row)
        except EngineError as error:
            self._fail(request_id, error)
        except Exception as error:
            LOGGER.exception("request %s failed in the engine", request_id)
            self._fail(request_id, EngineError(f"the engine failed: {error}"))

    def _add(self, request_id: str, row: Row) -> None:
        self._manager.register_result_handler(request_id, self._deliver)
        prompt = row.request.prompt_token_ids
        accepted = self._manager.add_request(
            list(prompt) if self._lora_batch is None else self._lora_batch.tag_prefix(prompt, row.adapter_id),
            request_id=request_id,
            max_new_tokens=row.request.max_new_tokens,
            streaming=True,
            eos_token_id=sorted(row.ends),
            **{ROW_KEY: row},
        )
        if accepted is None:
            raise EngineError("the engine has stopped")

    async def wait_until_unused(self, model: BatcherModel) -> None:
        """Wait until no open request is for a model."""
        while any(request.model is model for request in self.open.values()):
            self._has_ended.clear()
            await self._has_ended.wait()

    def stop(self) -> None:
        """Stop its thread. Takes as long as a step."""
        self._manager.is_stopping = True
        # The manager's own `stop` also runs the garbage collector twice, which takes seconds.
        self._manager.background_thread_status.request_stop(BackgroundThreadStatus.HARD_STOP, 0)
        self._manager._wake_up_loop.set()  # noqa: SLF001 - see above
        self._manager.join(time.perf_counter(), STOP_TIMEOUT_S)

    def fail_open_requests(self, reason: str) -> None:
        """End all open requests with an error."""
        for request_id in list(self.open):
            self._fail(request_id, EngineError(reason))

    async def finish_compiling(self) -> None:
        """Wait for the tasks that still compile grammars."""
        await asyncio.gather(*self._compiling)

    def _fail(self, request_id: str, error: EngineError) -> None:
        if request_id in self.open:
            self.open[request_id].stream.fail(error)
            self._forget(request_id)

    def _cancel(self, request_id: str) -> None:
        # The manager delivers nothing for a cancelled request, so its handler has to be dropped here.
        self._manager.cancel_request(request_id)
        self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._close(request_id)
        with self._manager.output_router._lock:  # noqa: SLF001 - there is no public way to drop a handler
            self._manager.output_router.result_handlers.pop(request_id, None)

    def _deliver(self, output: GenerationOutput) -> None:
        """Push new tokens to the request's stream. Runs on the event loop."""
        request = self.open.get(output.request_id)
        if request is None:
            return
        tokens = tuple(output.generated_tokens[request.delivered :])
        logprobs = tuple(request.row.logprobs[request.delivered : request.delivered + len(tokens)])
        prompt_logprobs = () if request.delivered else tuple(request.row.prompt_logprobs)
        request.delivered += len(tokens)
        if request.row.error is not None:
            LOGGER.error("request %s failed in the engine: %s", output.request_id, request.row.error)
            self._fail(output.request_id, request.row.error)
            self._manager.cancel_request(output.request_id)
        elif output.status == RequestStatus.FAILED:
            LOGGER.error("request %s failed in the engine: %s", output.request_id, output.error)
            request.stream.fail(EngineError(f"the engine failed: {output.error}"))
        elif output.is_finished():
            ended = not request.row.ends.isdisjoint(output.generated_tokens[-1:])
            request.stream.push(Increment(tokens, "stop" if ended else "length", logprobs, prompt_logprobs))
        elif tokens:
            request.stream.push(Increment(tokens, None, logprobs, prompt_logprobs))
        if output.is_finished():
            self._close(output.request_id)

    def _close(self, request_id: str) -> None:
        self.open.pop(request_id, None)
        self._has_ended.set()


def make_manager(
    model: LoadedModel,
    cache: CacheSize,
    max_concurrent: int,
    steps: ThreadPoolExecutor,
    allow_own_attention: bool,  # noqa: FBT001 - called in one place
) -> SchedulingManager:
    """Return the manager of a model's network, which all models of the network share.

    Args:
        model: One of the models.
        cache: The size of its key-value cache.
        max_concurrent: The maximum number of requests in one step.
        steps: The thread that computes.
        allow_own_attention: Use `attention` where it supports the device and the model.
    """
    # Greedy and without logits processors: RowSampler samples each row, and argmax takes its token.
    generation = GenerationConfig(do_sample=False, eos_token_id=sorted(model.end_token_ids) or -1)
    config = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=cache.blocks,
        max_batch_tokens=cache.batch_tokens,
        max_requests_per_batch=min(max_concurrent, cache.batch_tokens),
        # RowSampler runs in Python, so a step cannot be replayed from a graph or overlap with the next.
        use_cuda_graph=False,
        use_async_batching=False,
        # `loading` chooses the attention; this would also download kernels, and ignore the dtype.
        auto_switch_to_flash=False,
    )
    manager = SchedulingManager(
        steps, model=model.network, generation_config=generation, continuous_batching_config=config
    )
    prompt_scorer = PromptScorer()
    prompt_scorer.watch(model.network)
    is_on_cpu = model.network.device.type == "cpu"
    if allow_own_attention and is_on_cpu and attention.supports(model.network.config):
        # After the manager is created, which accepts only transformers' own attention, and before it starts.
        attention.register()
        model.network.set_attn_implementation(attention.NAME)
    manager.guard = CacheGuard() if needs_guard(model.network) else None
    manager.logit_processor = RowSampler(model.lora_batch, prompt_scorer, manager.guard)
    return manager
