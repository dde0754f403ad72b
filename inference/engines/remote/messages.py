"""The messages between a server and an engine process, in MessagePack, and the frames that they travel in.

A frame is the length of a message in bytes (four bytes, big-endian) and the message. Requests and increments
are the values of `inference.engines.protocol` itself: a field that is added there crosses without a change
here, and changes `handshake.VERSION`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from inference.engines.protocol import (  # noqa: TC001 - msgspec reads the annotations
    Ability,
    GenerationRequest,
    Increment,
)
from inference.errors import (
    EngineError,
    LoadError,
    RequestRefusedError,
    RestartRequiredError,
    ScoresError,
)

if TYPE_CHECKING:
    from inference.engines.protocol import Engine, ServedModel

MAX_FRAME_BYTES: Final = 2**28
"""A frame that claims to be larger is no frame. The log-probabilities of a long prompt take tens of MiB."""

LENGTH_BYTES: Final = 4

FailureKind = Literal["failed", "refused", "scores"]
AdapterFailureKind = Literal["does not fit", "needs a restart", "is not served", "failed"]


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the engine serves.

    Attributes:
        parent: The base's name, if this is an adapter.
        end_token_ids: Tokens that end an answer.
        context_tokens: The maximum number of tokens of prompt and answer together.
        created: Seconds since the epoch.
        tokenizer: Where its tokenizer is: a folder, or a hub id.
    """

    name: str
    parent: str | None
    end_token_ids: frozenset[int]
    context_tokens: int
    created: int
    tokenizer: str


class Description(msgspec.Struct, frozen=True, kw_only=True, tag="description"):
    """What the engine serves, and how fast it is. The first message, and again after each change.

    Attributes:
        engine: The engine's name.
        models: Its models, the base first.
        failed_adapters: Why adapters are not served, by their names.
        abilities: The optional features that it supports.
        cache_tokens: How many tokens fit a key-value cache; None if that is no limit.
        max_batch: The most answers that it takes into a step.
        step_cost: The measured duration of a step, in seconds: the fixed part, and that of each row; None if
            it could not be measured.
    """

    engine: str
    models: tuple[ModelDescription, ...]
    failed_adapters: dict[str, str]
    abilities: frozenset[Ability]
    cache_tokens: int | None
    max_batch: int
    step_cost: tuple[float, float] | None


class Failure(msgspec.Struct, frozen=True):
    """The end of a request that the engine does not complete.

    Attributes:
        number: The request's number.
        kind: Which `EngineError` it is.
        tokens: For `scores`: after how many tokens.
    """

    number: int
    kind: FailureKind
    reason: str
    tokens: int = 0


class Step(msgspec.Struct, frozen=True, tag="step"):
    """What has happened to a server's requests since the last message.

    Attributes:
        rows: The numbers of requests, with their new tokens.
        failures: The requests that have failed; after their rows.
    """

    rows: list[tuple[int, Increment]]
    failures: list[Failure]


class Draining(msgspec.Struct, frozen=True, tag="draining"):
    """The engine accepts no further requests, and goes away when those that it has are done."""


class AdapterResult(msgspec.Struct, frozen=True, tag="adapter_result"):
    """The end of an `AdapterChange`. A description with the change comes before it.

    Attributes:
        number: The change's number.
        model: The adapter that was added; None if one was removed, or nothing has changed.
        failure: Why nothing has changed; None if something has.
        reason: The same in words.
    """

    number: int
    model: ModelDescription | None = None
    failure: AdapterFailureKind | None = None
    reason: str = ""


class Requests(msgspec.Struct, frozen=True, tag="requests"):
    """New and cancelled requests, from a server to the engine.

    Attributes:
        submitted: New requests, with the numbers that the server has given them.
        cancelled: The numbers of requests to drop, after `submitted`.
    """

    submitted: list[tuple[int, GenerationRequest]]
    cancelled: list[int]


class AdapterChange(msgspec.Struct, frozen=True, tag="adapter"):
    """An adapter to add, to replace or to remove, from a server to the engine.

    Attributes:
        number: The number that the server has given it.
        folder: Where it is; None removes it.
    """

    number: int
    name: str
    folder: str | None


EngineMessage = Description | Step | Draining | AdapterResult
ServerMessage = Requests | AdapterChange

ENCODER: Final = msgspec.msgpack.Encoder()


class FrameReader:
    """Cuts received bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes, and return the messages that are complete now, undecoded.

        Raises:
            ValueError: If a frame claims to be larger than any message.
        """
        buffer, start, messages = self._buffer, 0, list[bytes]()
        buffer += data
        while len(buffer) - start >= LENGTH_BYTES:
            end = start + LENGTH_BYTES + int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if end - start > MAX_FRAME_BYTES:
                raise ValueError(f"a frame claims to have {end - start} bytes")
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[start + LENGTH_BYTES : end]))
            start = end
        del buffer[:start]
        return messages


def frame(message: EngineMessage | ServerMessage) -> bytes:
    """Return a message as a frame."""
    body = ENCODER.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def describe_model(engine: Engine, model: ServedModel) -> ModelDescription:
    """Return the description of a model that an engine serves."""
    return ModelDescription(
        name=model.name,
        parent=model.parent,
        end_token_ids=model.end_token_ids,
        context_tokens=engine.context_tokens(model.name),
        created=model.created,
        tokenizer=model.tokenizer,
    )


def to_adapter_failure(error: Exception) -> tuple[AdapterFailureKind, str]:
    """Return why an adapter could not be added or removed, for a message."""
    kind: AdapterFailureKind = "failed"
    if isinstance(error, RestartRequiredError):
        kind = "needs a restart"
    elif isinstance(error, LoadError):
        kind = "does not fit"
    elif isinstance(error, KeyError):
        kind = "is not served"
    return kind, str(error)


def to_adapter_error(name: str, kind: AdapterFailureKind, reason: str) -> Exception:
    """Return the error of a message."""
    match kind:
        case "needs a restart":
            return RestartRequiredError(reason)
        case "does not fit":
            return LoadError(reason)
        case "is not served":
            return KeyError(name)
        case "failed":
            return EngineError(reason)


def to_failure(number: int, error: EngineError) -> Failure:
    """Return the message for an error."""
    if isinstance(error, ScoresError):
        return Failure(number, "scores", str(error), error.tokens)
    return Failure(number, "refused" if isinstance(error, RequestRefusedError) else "failed", str(error))


def to_error(failure: Failure) -> EngineError:
    """Return the error of a message."""
    if failure.kind == "scores":
        return ScoresError(failure.tokens)
    return RequestRefusedError(failure.reason) if failure.kind == "refused" else EngineError(failure.reason)
