"""Read the environment once, into a frozen value.

Every problem is reported at once, and so is every `FJARR_` name that nothing here knows: a mistyped setting
must not be a silent default. Nothing else in the server reads the environment. Imports the standard library
only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from inference.engines import CHOICES as ENGINE_CHOICES
from inference.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

PREFIX: Final = "FJARR_"
INGRESS_LIMIT_S: Final = 240.0
"""Azure Container Apps' ingress cuts a request after this time. Source: azure-container-apps issue 597."""

DTYPES: Final = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS: Final = ("auto", "none", "nf4", "int8")
DEVICES: Final = ("auto", "cpu", "cuda")


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
        adapter: Path relative to the mount; None means the newest one under `models`.
        prompt_template: Text with one `{}`, around the last user message, for adapters trained on bare text.
        engine: One of `engines.CHOICES`.
        max_new_tokens: How many tokens a chat answer may have when the request does not say.
        max_context_tokens: A limit for prompt and answer together, below the model's own; None means the
            model's.
        kv_cache_tokens: How many tokens the key-value cache of a lane holds; None derives it from the memory.
        max_concurrent: How many requests generate at once; more wait.
        max_waiting: How many requests may wait before new ones are answered 429.
        request_timeout_s: How long a request may take, waiting included.
        heartbeat_s: After how much silence a stream sends a comment.
        drain_grace_s: How long requests in flight may go on after SIGTERM.
        socket_fd: The listening socket that `start` hands over; None makes the server bind one itself.
    """

    mount: Path = Path("/mount")
    release: str = ""
    host: str = "0.0.0.0"  # noqa: S104 - in its container the server is reached from outside; a stage may say otherwise
    port: int = 7860
    api_keys: tuple[ApiKey, ...] = ()
    is_auth_on: bool = True
    is_chat_sign_in_on: bool = True
    base_model: str | None = None
    adapter: str | None = None
    prompt_template: str | None = None
    engine: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "auto"
    threads: int | None = None
    max_new_tokens: int = 1024
    max_context_tokens: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrent: int = 64
    max_waiting: int = 128
    max_body_bytes: int = 4 * 1024 * 1024
    request_timeout_s: float = 230.0
    heartbeat_s: float = 15.0
    drain_grace_s: float = 25.0
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
    for name, (field, parse) in _READERS.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            values[field] = parse(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in _READERS)
    problems += [f"{name}: no such setting; there are {_known_names()}" for name in unknown]
    # Where everybody is served, there may be no key to sign in with; then only an explicit `on` is a mistake.
    values.setdefault("is_chat_sign_in_on", bool(values.get("api_keys") or values.get("is_auth_on", True)))
    settings = dataclasses.replace(Settings(), **values)  # type: ignore[arg-type]  # each reader returns its field's type
    if settings.is_auth_on and not settings.api_keys:
        problems.append("FJARR_API_KEYS: it is empty; set a key, or FJARR_AUTH=off to serve everybody")
    elif settings.is_chat_sign_in_on and not settings.api_keys:
        problems.append("FJARR_CHAT_SIGN_IN: it is on, and there is no key in FJARR_API_KEYS to sign in with")
    if problems:
        raise SettingsError(tuple(problems))
    return settings


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
        keys.append(ApiKey(name.strip(), digest_of(key.strip())))
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise ValueError("two keys have the same name (a bare key is named 'default')")
    return tuple(keys)


def _parse_switch(text: str) -> bool:
    if text not in {"on", "off"}:
        raise ValueError(f"{text!r} is neither 'on' nor 'off'")
    return text == "on"


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


_READERS: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    # The ingress's own port first, so that FJARR_PORT has the last word.
    "CONTAINER_APP_PORT": ("port", _whole(1, 65535)),
    "CONTAINER_APP_REVISION": ("revision", _optional_text),
    "CONTAINER_APP_REPLICA_NAME": ("replica", _optional_text),
    "FJARR_MOUNT": ("mount", Path),
    "FJARR_RELEASE": ("release", _optional_text),
    "FJARR_HOST": ("host", _optional_text),
    "FJARR_PORT": ("port", _whole(1, 65535)),
    "FJARR_API_KEYS": ("api_keys", _parse_keys),
    "FJARR_AUTH": ("is_auth_on", _parse_switch),
    "FJARR_CHAT_SIGN_IN": ("is_chat_sign_in_on", _parse_switch),
    "FJARR_BASE_MODEL": ("base_model", _optional_text),
    "FJARR_ADAPTER": ("adapter", _optional_text),
    "FJARR_PROMPT_TEMPLATE": ("prompt_template", _parse_template),
    "FJARR_ENGINE": ("engine", _one_of(ENGINE_CHOICES)),
    "FJARR_DEVICE": ("device", _one_of(DEVICES)),
    "FJARR_DTYPE": ("dtype", _one_of(DTYPES)),
    "FJARR_QUANTIZATION": ("quantization", _one_of(QUANTIZATIONS)),
    "FJARR_THREADS": ("threads", _whole(1)),
    "FJARR_MAX_NEW_TOKENS": ("max_new_tokens", _whole(1)),
    "FJARR_MAX_CONTEXT_TOKENS": ("max_context_tokens", _whole(16)),
    "FJARR_KV_CACHE_TOKENS": ("kv_cache_tokens", _whole(64)),
    "FJARR_MAX_CONCURRENT": ("max_concurrent", _whole(1, 256)),
    "FJARR_MAX_WAITING": ("max_waiting", _whole(0)),
    "FJARR_MAX_BODY_BYTES": ("max_body_bytes", _whole(1024)),
    "FJARR_REQUEST_TIMEOUT_S": ("request_timeout_s", _seconds(1, INGRESS_LIMIT_S - 1)),
    "FJARR_HEARTBEAT_S": ("heartbeat_s", _seconds(0.05, INGRESS_LIMIT_S - 1)),
    "FJARR_DRAIN_GRACE_S": ("drain_grace_s", _seconds(0, 600)),
    "FJARR_SOCKET_FD": ("socket_fd", _whole(3)),
}
