"""Read the environment once, into a frozen value.

Every problem is reported at once, and so is every `FJARR_` name that nothing here knows: a mistyped setting
must not be a silent default. Nothing else in the server reads the environment. Imports the standard library
only.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from inference.engines.catalogue import ENGINE_CHOICES
from inference.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

T = TypeVar("T")

PREFIX: Final = "FJARR_"
INGRESS_LIMIT_S: Final = 240.0
"""Azure Container Apps' ingress cuts a request after this time. Source: azure-container-apps issue 597."""

DTYPES: Final = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS: Final = ("auto", "none", "nf4", "int8")
DEVICES: Final = ("auto", "cpu", "cuda")
ATTENTIONS: Final = ("auto", "sdpa", "eager", "flash_attention_2")
MERGES: Final = ("auto", "on", "off")
LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
METRICS: Final = ("on", "open", "off")

KEYS_NAME: Final = "FJARR_API_KEYS"
DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
"""How an entry of the keys gives a digest in place of the key."""

ORIGIN: Final = re.compile(r"https?://[^/?#\s]+")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Name a key and hold its digest; the key itself is not kept."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold everything that the environment says. `load_settings` makes it.

    Attributes:
        mount: Where the share is mounted.
        base_model: Path relative to the mount, id under `model-cache`, or hub id; None means the adapter's.
        adapter: Paths relative to the mount, parted by commas, or `*` for every adapter under `models`; None
            means the newest.
        merge_adapters: Whether each adapter is merged into weights of its own: `auto`, `on` or `off`.
        prompt_template: Text with one `{}`, around the last user message, for adapters trained on bare text.
        allow_pickle: Whether pickled weights are loaded.
        trust_remote_code: Whether code that lies beside a model's weights is run.
        engine: One of `engines.CHOICES`.
        max_new_tokens: How many tokens a chat answer may have when the request does not say.
        max_context_tokens: A limit for prompt and answer together, below the model's own; None means the
            model's.
        kv_cache_tokens: How many tokens the key-value cache of a lane holds; None derives it from the memory.
        max_concurrent: How many requests generate at once; more wait.
        max_waiting: How many requests may wait before new ones are answered 429.
        max_per_key: How many answers one key may have at once, waiting ones included; None sets no limit.
        request_timeout_s: How long a request may take, waiting included.
        heartbeat_s: After how much silence a stream sends a comment.
        body_timeout_s: How long a client may take to send a request's body.
        drain_grace_s: How long requests in flight may go on after SIGTERM.
        cors_origins: The origins whose pages may ask `/v1` from a browser; `*` is all.
        metrics: `on` asks for an API key where `/v1` does, `open` asks nobody, `off` shows none.
        log_prompts: Whether prompts and answers are logged.
        otlp_endpoint: Where traces go, as OpenTelemetry's own variables say it; None traces nothing.
        otlp_protocol: How they travel; only `http/protobuf` is spoken.
        socket_fd: The listening socket that `start` hands over; None makes the server bind one itself.
    """

    mount: Path = Path("/mount")
    release: str = ""
    host: str = "0.0.0.0"  # noqa: S104 - in its container the server is reached from outside; a stage may say otherwise
    port: int = 7860
    api_keys: tuple[ApiKey, ...] = ()
    auth: bool = True
    chat_sign_in: bool = True
    base_model: str | None = None
    adapter: str | None = None
    merge_adapters: str = "auto"
    prompt_template: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
    engine: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "auto"
    attention: str = "auto"
    threads: int | None = None
    max_new_tokens: int = 1024
    max_context_tokens: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrent: int = 64
    max_waiting: int = 128
    max_per_key: int | None = None
    max_body_bytes: int = 4 * 1024 * 1024
    request_timeout_s: float = 230.0
    heartbeat_s: float = 15.0
    body_timeout_s: float = 30.0
    drain_grace_s: float = 25.0
    cors_origins: tuple[str, ...] = ()
    metrics: str = "on"
    log_format: str = "text"
    log_level: str = "info"
    log_prompts: bool = False
    otlp_endpoint: str | None = None
    otlp_protocol: str = "http/protobuf"
    socket_fd: int | None = None
    revision: str = ""
    replica: str = ""


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Turn the environment into `Settings`.

    Raises:
        SettingsError: With every unknown name and every bad value.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    for name, reader in _READERS.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            values[reader.field] = reader.parse(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in _READERS)
    problems += [f"{name}: no such setting; there are {_known_names()}" for name in unknown]
    # Where everybody is served, there may be no key to sign in with; then only an explicit `on` is a mistake.
    values.setdefault("chat_sign_in", bool(values.get("api_keys") or values.get("auth", True)))
    settings = dataclasses.replace(Settings(), **values)  # type: ignore[arg-type]  # each reader returns its field's type
    if settings.auth and not settings.api_keys:
        problems.append("FJARR_API_KEYS: it is empty; set a key, or FJARR_AUTH=off to serve everybody")
    elif settings.chat_sign_in and not settings.api_keys:
        problems.append("FJARR_CHAT_SIGN_IN: it is on, and there is no key in FJARR_API_KEYS to sign in with")
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def hide_keys(environ: MutableMapping[str, str], keys: tuple[ApiKey, ...]) -> None:
    """Put the keys' digests where the keys stood, so that no process begun from now on is given them."""
    if environ.get(KEYS_NAME):
        environ[KEYS_NAME] = ",".join(f"{key.name}=sha256:{key.digest.hex()}" for key in keys)


def digest_of(key: str) -> bytes:
    """Return the digest under which a key is kept and compared."""
    return sha256(key.encode()).digest()


def _known_names() -> str:
    return ", ".join(sorted(name for name in _READERS if name.startswith(PREFIX)))


def _parse_keys(text: str) -> tuple[ApiKey, ...]:
    keys: list[ApiKey] = []
    for entry in text.replace("\n", ",").split(","):
        name, equals, key = entry.strip().partition("=")
        if not equals:
            name, key = "default", name
        if not name and not key:
            continue
        if not name.strip() or not key.strip():
            # The entry may be a secret: say where it stands, not what it is.
            raise ValueError(
                f"entry {len(keys) + 1} has an empty name or key; entries are name=key, or a bare key"
            )
        digest = DIGEST.fullmatch(key.strip())
        keys.append(
            ApiKey(name.strip(), bytes.fromhex(digest.group(1)) if digest else digest_of(key.strip()))
        )
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise ValueError("two keys have the same name (a bare key is named 'default')")
    return tuple(keys)


def _parse_adapters(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{text!r} has an empty entry; entries are folders on the share, parted by commas")
    if "*" in names and len(names) > 1:
        raise ValueError(f"{text!r} has more than '*', which takes every adapter already")
    return ",".join(names)


def _parse_switch(text: str) -> bool:
    if text not in {"on", "off"}:
        raise ValueError(f"{text!r} is neither 'on' nor 'off'")
    return text == "on"


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip().rstrip("/") for origin in text.split(",") if origin.strip())
    for origin in origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is no origin; write https://host or http://host:port, parted by commas, or *"
            )
    return origins


def _parse_template(text: str) -> str:
    template = text.replace("\\n", "\n")
    if template.count("{}") != 1:
        raise ValueError(f"{text!r} must have exactly one {{}}, where the user's message goes")
    return template


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            raise ValueError(f"{number} is not {_range_text(least, most)}")
        return number

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number of seconds") from None
        if not least <= number <= most:
            raise ValueError(f"{number:g} is not {_range_text(least, most)} seconds")
        return number

    return parse


def _range_text(least: float, most: float | None) -> str:
    return f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"


def _optional_text(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class _Reader:
    """Say which field a variable fills, how its text is read, and what it means."""

    field: str
    parse: Callable[[str], object]
    meaning: str


_READERS: Final[Mapping[str, _Reader]] = {
    # The ingress's own port first, so that FJARR_PORT has the last word.
    "CONTAINER_APP_PORT": _Reader("port", _whole(1, 65535), "the port that the platform gave this replica"),
    "CONTAINER_APP_REVISION": _Reader("revision", _optional_text, "the revision that this replica is of"),
    "CONTAINER_APP_REPLICA_NAME": _Reader("replica", _optional_text, "this replica's name"),
    # OpenTelemetry's own; the more special one comes last and has the last word. The rest of them, such as
    # OTEL_SERVICE_NAME and OTEL_EXPORTER_OTLP_HEADERS, its library reads by itself.
    "OTEL_EXPORTER_OTLP_PROTOCOL": _Reader("otlp_protocol", _optional_text, "how traces travel"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": _Reader("otlp_protocol", _optional_text, "how traces travel"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": _Reader("otlp_endpoint", _optional_text, "where all telemetry goes"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": _Reader("otlp_endpoint", _optional_text, "where traces go"),
    "FJARR_MOUNT": _Reader("mount", Path, "where the share is mounted; `/mount`"),
    "FJARR_RELEASE": _Reader(
        "release", _optional_text, "the release that runs, as `CURRENT` named it at the start"
    ),
    "FJARR_HOST": _Reader("host", _optional_text, "the address to listen on; `0.0.0.0`"),
    "FJARR_PORT": _Reader("port", _whole(1, 65535), "the port to listen on; the platform's, else 7860"),
    KEYS_NAME: _Reader(
        "api_keys",
        _parse_keys,
        "`name=key` entries, parted by commas or new lines; a bare key is named `default`, and a key may be"
        " given as its digest, `sha256:` and 64 hexadecimal digits",
    ),
    "FJARR_AUTH": _Reader("auth", _parse_switch, "`off` serves `/v1` without a key; `on`"),
    "FJARR_CHAT_SIGN_IN": _Reader(
        "chat_sign_in", _parse_switch, "`off` serves the chat without a sign-in; `on`"
    ),
    "FJARR_BASE_MODEL": _Reader(
        "base_model",
        _optional_text,
        "path on the share, id under `model-cache`, or hub id; the one that the adapter names",
    ),
    "FJARR_ADAPTER": _Reader(
        "adapter",
        _parse_adapters,
        "the adapters' folders on the share, parted by commas, the main one first; `*` takes every adapter"
        " under `models`; the newest alone",
    ),
    "FJARR_MERGE_ADAPTERS": _Reader(
        "merge_adapters",
        _one_of(MERGES),
        "for the engine transformers: `on` merges each adapter into weights of its own, where it costs no"
        " time, but memory, and adapters take turns; `off` keeps adapters beside the base's weights, where"
        " they cost hardly any memory, and all are computed in one batch; `auto` merges one that is alone,"
        " if it fits",
    ),
    "FJARR_PROMPT_TEMPLATE": _Reader(
        "prompt_template",
        _parse_template,
        "text with one `{}` for the last user message, for adapters trained on bare text",
    ),
    "FJARR_ALLOW_PICKLE": _Reader(
        "allow_pickle",
        _parse_switch,
        "`on` loads pickled weights too (`pytorch_model.bin`, `adapter_model.bin`), with torch's restricted"
        " reader; `off`",
    ),
    "FJARR_TRUST_REMOTE_CODE": _Reader(
        "trust_remote_code",
        _parse_switch,
        "`on` runs the code that a model's repository brings along; `off`",
    ),
    "FJARR_ENGINE": _Reader(
        "engine",
        _one_of(ENGINE_CHOICES),
        "`auto`, `transformers` or `vllm`; `auto` takes vLLM on a card where it is installed",
    ),
    "FJARR_DEVICE": _Reader(
        "device", _one_of(DEVICES), "`auto`, `cpu` or `cuda`; `auto` takes the card if there is one"
    ),
    "FJARR_DTYPE": _Reader(
        "dtype", _one_of(DTYPES), "`auto`, `bfloat16`, `float16` or `float32`; `auto` suits the hardware"
    ),
    "FJARR_QUANTIZATION": _Reader(
        "quantization",
        _one_of(QUANTIZATIONS),
        "`auto`, `none`, `nf4` or `int8`; `auto` quantises where the weights would not fit",
    ),
    "FJARR_ATTENTION": _Reader(
        "attention",
        _one_of(ATTENTIONS),
        "`auto`, `sdpa`, `eager` or `flash_attention_2`, for the engine transformers; `auto` takes flash"
        " attention where the card and the packages have it, and one of our own on a CPU",
    ),
    "FJARR_THREADS": _Reader("threads", _whole(1), "how many threads compute on a CPU; torch's own choice"),
    "FJARR_MAX_NEW_TOKENS": _Reader(
        "max_new_tokens", _whole(1), "how many tokens an answer may have when the request does not say; 1024"
    ),
    "FJARR_MAX_CONTEXT_TOKENS": _Reader(
        "max_context_tokens", _whole(16), "a limit for prompt and answer together, below the model's own"
    ),
    "FJARR_KV_CACHE_TOKENS": _Reader(
        "kv_cache_tokens",
        _whole(64),
        "how many tokens the key-value cache of a model holds; derived from the memory",
    ),
    "FJARR_MAX_CONCURRENT": _Reader(
        "max_concurrent", _whole(1, 256), "how many requests generate at once, the others wait; 64"
    ),
    "FJARR_MAX_WAITING": _Reader(
        "max_waiting", _whole(0), "how many requests may wait before new ones are answered with 429; 128"
    ),
    "FJARR_MAX_PER_KEY": _Reader(
        "max_per_key",
        _whole(1),
        "how many answers one key may have at once, waiting ones included, before it is answered with 429; no"
        " limit",
    ),
    "FJARR_MAX_BODY_BYTES": _Reader("max_body_bytes", _whole(1024), "the largest request body; 4194304"),
    "FJARR_REQUEST_TIMEOUT_S": _Reader(
        "request_timeout_s",
        _seconds(1, INGRESS_LIMIT_S - 1),
        "how long a request may take, waiting included; 230, below the ingress's 240",
    ),
    "FJARR_HEARTBEAT_S": _Reader(
        "heartbeat_s",
        _seconds(0.05, INGRESS_LIMIT_S - 1),
        "after how much silence a stream sends a comment; 15",
    ),
    "FJARR_BODY_TIMEOUT_S": _Reader(
        "body_timeout_s", _seconds(0.05, INGRESS_LIMIT_S - 1), "how long a client may take to send a body; 30"
    ),
    "FJARR_DRAIN_GRACE_S": _Reader(
        "drain_grace_s", _seconds(0, 600), "how long requests in flight may go on after SIGTERM; 25"
    ),
    "FJARR_CORS_ORIGINS": _Reader(
        "cors_origins",
        _parse_origins,
        "the origins whose pages may ask `/v1` from a browser, parted by commas, or `*` for all; none",
    ),
    "FJARR_METRICS": _Reader(
        "metrics",
        _one_of(METRICS),
        "`on` serves `/metrics` to who has an API key, `open` to everybody, `off` to nobody; `on`",
    ),
    "FJARR_LOG_FORMAT": _Reader(
        "log_format", _one_of(LOG_FORMATS), "`text`, or `json` for one object a line; `text`"
    ),
    "FJARR_LOG_LEVEL": _Reader(
        "log_level", _one_of(LOG_LEVELS), "`debug`, `info`, `warning` or `error`; `info`"
    ),
    "FJARR_LOG_PROMPTS": _Reader(
        "log_prompts", _parse_switch, "`on` logs what is asked and what is answered; `off`"
    ),
    "FJARR_SOCKET_FD": _Reader(
        "socket_fd", _whole(3), "the listening socket that `start` hands over; not for users"
    ),
}

SETTINGS: Final[Mapping[str, str]] = {
    name: reader.meaning for name, reader in _READERS.items() if name.startswith(PREFIX)
}
"""What each setting means and what it is without being set. The reference is made from this."""
