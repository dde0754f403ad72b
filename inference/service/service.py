"""The entry point for text requests, shared by the API and the chat page.

`Service.begin` checks a request, tokenizes it, takes slots for it and returns its `Answer`. Prompts and
answers are never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from inference.errors import ApiError, NotFoundError, RestartRequiredError, UnavailableError
from inference.models.adapter_index import split_name
from inference.service.admission import AdmissionQueue
from inference.service.answer import Answer, RunningRequest
from inference.service.forecast import Forecast, Size
from inference.service.lifecycle import RequestLifecycle
from inference.service.model_names import ListedModel, ModelNames
from inference.service.preparation import check_choices, encode, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.engines.protocol import Engine, ServedModel
    from inference.errors import LoadError
    from inference.service.capacity import Capacity
    from inference.service.lifecycle import Observer
    from inference.service.preparation import PreparedRequest
    from inference.service.requests import Limits, TextRequest

State = Literal["starting", "ready", "draining", "failed"]

DEFAULT_SLOTS: Final = 64
"""How many answers are generated at once if neither the settings nor a measurement say."""


class Service:
    """The engine and its models, once loaded, behind the admission queue.

    Args:
        limits: The limits on every request.

    Attributes:
        adapter_generation: The generation of the share's index of adapters that is served; empty if none is.
        names: The names of models in the API.
        queue: The queue that requests wait in for their slots.
        is_engine_replaced: Whether another engine takes the place of one that is dead.
        holds_requests: While set, requests wait until the engine has started, within their time limit.
        observers: The receivers of request lifecycle events.
        phase: What the server is doing while it starts.
        percent: How far that is.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.queue = AdmissionQueue(
            limits.max_concurrent or DEFAULT_SLOTS,
            limits.max_waiting,
            limits.max_per_key,
            limits.request_timeout_s,
        )
        self.adapter_generation = ""
        self.names = ModelNames()
        self.is_engine_replaced = False
        self.holds_requests = asyncio.Event()
        self.observers: list[Observer] = []
        self.phase = "starting"
        self.percent = 0
        self._state: State = "starting"
        self._left_start = asyncio.Event()
        self._counts_prompts = False
        self._engine: Engine | None = None
        self._models: dict[str, ServedModel] = {}
        self._failed_adapters: dict[str, str] = {}
        self._awaiting_restart: set[str] = set()

    @property
    def state(self) -> State:
        """Return the server's state; once the engine is dead it is `failed`, or `starting` again."""
        if self._state == "ready" and self._engine is not None and not self._engine.is_alive:
            return "starting" if self.is_engine_replaced else "failed"
        return self._state

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Return the models, the base first; none while loading."""
        return tuple(self._models.values())

    @property
    def listed_models(self) -> tuple[ListedModel, ...]:
        """Return the names of the models in the API, the base first; none while loading."""
        return self.names.list_models(self.models)

    @property
    def failed_adapters(self) -> Mapping[str, str]:
        """Return why adapters are not served, or not as they are on the share, by their names."""
        return self._failed_adapters

    @property
    def awaiting_restart(self) -> frozenset[str]:
        """Return the failed adapters that would be served after a restart."""
        return frozenset(self._awaiting_restart)

    def add_model(self, model: ServedModel) -> None:
        """Serve one more adapter, as the first one, or another of its name in its place."""
        self.forget_failure(model.name)
        base, *adapters = self._models.values()
        names = [each.name for each in adapters]
        index = names.index(model.name) if model.name in names else 0
        adapters[index : index + (model.name in names)] = [model]
        self._models = {each.name: each for each in (base, *adapters)}

    def remove_model(self, name: str) -> None:
        """Accept no more requests for a model."""
        del self._models[name]

    def add_failure(self, name: str, error: LoadError) -> None:
        """List why an adapter is not served as it is on the share."""
        self._failed_adapters[name] = str(error)
        self._awaiting_restart.discard(name)
        if isinstance(error, RestartRequiredError):
            self._awaiting_restart.add(name)

    def forget_failure(self, name: str) -> bool:
        """Remove an adapter from the list of those that are not served. Return whether it was there."""
        self._awaiting_restart.discard(name)
        return self._failed_adapters.pop(name, None) is not None

    def report(self, phase: str, percent: int) -> None:
        """Set the progress of the start. Safe to call from any thread."""
        self.phase, self.percent = phase, percent

    def begin_serving(
        self,
        engine: Engine,
        models: Sequence[ServedModel],
        capacity: Capacity | None = None,
        failed_adapters: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Accept requests from now on, unless the server is already draining.

        Args:
            engine: The engine.
            models: Its models, the base first.
            capacity: How much the engine can do at once; None if nothing was measured.
            failed_adapters: Why adapters are not served, by their names.
        """
        if engine is not self._engine:
            # Otherwise the engine has other models than before, and what failed since is listed here alone.
            self._failed_adapters, self._awaiting_restart = dict(failed_adapters), set()
        self._engine = engine
        if capacity is not None:
            self._counts_prompts = math.isfinite(capacity.cache_tokens)
            forecast = Forecast(capacity.step_s, capacity.full_length / 2)
            self.queue.configure(capacity.slots, capacity.max_tokens, capacity.cache_tokens, forecast)
        self._models = {model.name: model for model in models}
        if self._state == "starting":
            self._state = "ready"
            self._left_start.set()

    def stop_serving(self) -> None:
        """Reject new requests until `begin_serving` is called again."""
        if self._state == "ready":
            self._state = "starting"
            self._left_start.clear()

    def begin_draining(self) -> None:
        """Reject new requests from now on."""
        self._state = "draining"
        self._left_start.set()

    def model(self, name: str) -> ServedModel:
        """Return a model by its name.

        Raises:
            UnavailableError: While no model is loaded.
            NotFoundError: If there is none of that name.
        """
        self.require_ready()
        found = self.names.find(name, self._models)
        if found is not None:
            return self._models[found]
        failures = self._failed_adapters
        reason = next((failures[each] for each in failures if name in {each, split_name(each)[0]}), None)
        if reason is not None:
            raise NotFoundError(
                f"The model {name!r} is not served: {reason}.", param="model", code="adapter_failed"
            )
        known = ", ".join(repr(each.name) for each in self.listed_models)
        raise NotFoundError(
            f"The model {name!r} does not exist; there are {known}.", param="model", code="model_not_found"
        )

    def require_ready(self) -> Engine:
        """Return the engine.

        Raises:
            UnavailableError: If requests are not accepted now.
        """
        state = self.state
        if state == "ready" and self._engine is not None:
            return self._engine
        if state == "failed":
            raise UnavailableError(
                "The engine has stopped; the server is about to be restarted.", code="engine_dead"
            )
        reason = f"{self.phase}, {self.percent} %" if state == "starting" else "it stops"
        raise UnavailableError(
            f"The server takes no requests now ({reason}). Try again shortly.",
            code=state,
            headers={"Retry-After": "5"},
        )

    async def begin(self, request: TextRequest, *others: TextRequest) -> Answer:
        """Check requests and take slots for them, or queue them. Use the answer as an async context manager.

        Args:
            request: The request.
            others: Requests that differ in their prompts only; their choices follow the first one's.

        Raises:
            ApiError: If the requests are invalid, or cannot be served now.
        """
        try:
            return await self._begin((request, *others))
        except ApiError as error:
            for observer in self.observers:
                observer.on_rejected(request, error)
            raise

    async def tokenize(self, request: TextRequest) -> tuple[int, ...]:
        """Return the tokens of a request's prompt, without any other check of the request.

        Raises:
            ApiError: If the prompt cannot be used with the model, or no model is loaded.
        """
        await self._hold(asyncio.get_running_loop().time() + self.limits.request_timeout_s)
        encoded = await encode((request,), self.model(request.model))
        return encoded.prompts[0]

    async def _begin(self, requests: tuple[TextRequest, ...]) -> Answer:
        request = requests[0]
        deadline = asyncio.get_running_loop().time() + self.limits.request_timeout_s
        await self._hold(deadline)
        model = self.model(request.model)
        check_choices(requests, self.queue.max_slots_per_request)
        encoded = await encode(requests, model)
        # The server may have begun to drain during the tokenization.
        engine = self.require_ready()
        prepared = prepare(encoded, engine, self.limits.max_new_tokens)
        admission = self.queue.acquire(request.client, _size(prepared, counts_prompts=self._counts_prompts))
        lifecycle = RequestLifecycle(request, prepared.prompt_tokens, self.observers)
        return Answer(RunningRequest(prepared, engine, admission, lifecycle, deadline))

    async def _hold(self, deadline: float) -> None:
        """Wait until the engine has started, if requests are held for that; at most until the deadline."""
        if self._state == "starting" and self.holds_requests.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._left_start.wait()


def _size(prepared: PreparedRequest, *, counts_prompts: bool) -> Size:
    generations = prepared.generations
    return Size(
        slots=len(generations),
        prompt_tokens=sum(len(each.prompt_token_ids) for each in generations) if counts_prompts else 0,
        max_new_tokens=max(each.max_new_tokens for each in generations),
    )
