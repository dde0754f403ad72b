"""The server's settings, read from the environment once.

Each field of `Settings` declares its environment variable, parser, default and description; the reference in
`docs/` is generated from them. All problems are reported at once, including `FJARR_` variables that do not
exist: a mistyped name must not become a silent default. No other module reads the environment. Imports the
standard library only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference.api_keys import ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE, ApiKey, parse_api_keys
from inference.engines.catalogue import ENGINE_CHOICES
from inference.errors import SettingsError
from inference.setting_declarations import Setting, setting
from inference.setting_parsers import (
    adapter_list,
    auto_or,
    one_of,
    origin_list,
    seconds,
    switch,
    template,
    text,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "FJARR_"
INGRESS_LIMIT_S: Final = 240.0
"""Azure Container Apps' ingress ends a request after this time. Source: azure-container-apps issue 597."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings. `load_settings` creates them from the environment."""

    mount: Path = setting("FJARR_MOUNT", Path, Path("/mount"), "the path at which the share is mounted")
    release: str = setting(
        "FJARR_RELEASE",
        text,
        "",
        "the release that runs: the content of `CURRENT` when the container started",
    )
    host: str = setting(
        "FJARR_HOST",
        text,
        "0.0.0.0",  # noqa: S104 - a container is called from outside
        "the address to listen on",
    )
    port: int = setting(
        ("CONTAINER_APP_PORT", "FJARR_PORT"),
        whole_number(1, 65535),
        7860,
        "the port to listen on",
        "`CONTAINER_APP_PORT`, which the platform sets, else `7860`",
    )
    api_keys: tuple[ApiKey, ...] = setting(
        API_KEYS_VARIABLE,
        parse_api_keys,
        (),
        "entries `name=key`, separated by commas or newlines; a bare key is named `default`. A key can be"
        " given as its digest: `sha256:` and 64 hexadecimal digits",
        "none; required unless `FJARR_AUTH` is `off`",
    )
    admin_key: tuple[ApiKey, ...] = setting(
        ADMIN_KEY_VARIABLE,
        parse_api_keys,
        (),
        "the key that may load and unload adapters over HTTP, or its digest, in the form of `FJARR_API_KEYS`",
        "none; adapters are not loaded over HTTP",
    )
    auth: bool = setting("FJARR_AUTH", switch, True, "`off` serves `/v1` without a key")  # noqa: FBT003
    chat_sign_in: bool = setting(
        "FJARR_CHAT_SIGN_IN",
        switch,
        True,  # noqa: FBT003 - a default is a value
        "`off` serves the chat page without a sign-in",
        "`on`; `off` if there is no key and `FJARR_AUTH` is `off`",
    )
    base_model: str | None = setting(
        "FJARR_BASE_MODEL",
        text,
        None,
        "the base model: a path on the share, an id under `model-cache`, or a hub id",
        "the one that the adapter names",
    )
    adapter: str | None = setting(
        "FJARR_ADAPTER",
        adapter_list,
        None,
        "the adapters: folders on the share, separated by commas, the main one first; `*` serves every"
        " adapter under `models`, and so does the default, except for those of another base model than the"
        " newest adapter's",
        "every adapter of one base model under `models`, the newest first",
    )
    merge_adapters: str = setting(
        "FJARR_MERGE_ADAPTERS",
        one_of("auto", "on", "off"),
        "auto",
        "`on` merges each adapter into a copy of the base model, which adds no latency and takes memory, and"
        " adapters compute one after another; `off` keeps adapters separate from the base model, which takes"
        " little memory, and all compute in one batch; `auto` merges if there is one adapter, it fits in"
        " memory and nothing is quantized. The engine vllm serves a merged adapter from files in"
        " `FJARR_MERGE_FOLDER`",
    )
    merge_folder: Path | None = setting(
        "FJARR_MERGE_FOLDER",
        Path,
        None,
        "for the engine vllm: where merged copies of the base model are kept, by digest. A replica's local"
        " disk on Azure has 8 GiB: for larger models name a folder on the share",
        "`~/.cache/fjarr/merged`",
    )
    local_weights: str = setting(
        "FJARR_LOCAL_WEIGHTS",
        one_of("auto", "disk", "memory", "off"),
        "auto",
        "where the base model is copied to before an engine loads it: `auto` copies it from a share, in"
        " parallel ranges, to `FJARR_WEIGHTS_FOLDER` if it fits there, else into memory for as long as it"
        " loads; `disk` and `memory` copy it from any folder; `off` reads it where it is",
    )
    weights_folder: Path | None = setting(
        "FJARR_WEIGHTS_FOLDER",
        Path,
        None,
        "the folder of the copies of base models, which a restart of the engine finds again",
        "`~/.cache/fjarr/weights`",
    )
    lora_slots: int | None = setting(
        "FJARR_LORA_SLOTS",
        auto_or(whole_number(0, 256)),
        None,
        "for the engine vllm: how many adapters can be added without a restart, besides those that it starts"
        " with. Slots cost memory on a GPU, and speed on a CPU",
        "`auto`: 2 if adapters are separate from the base model, else 0",
    )
    prompt_template: str | None = setting(
        "FJARR_PROMPT_TEMPLATE",
        template,
        None,
        "text with one `{}` for the last user message, for adapters trained on plain text",
        "the model's chat template",
    )
    allow_pickle: bool = setting(
        "FJARR_ALLOW_PICKLE",
        switch,
        False,  # noqa: FBT003 - see above
        "`on` also loads pickled weights (`pytorch_model.bin`, `adapter_model.bin`), with torch's restricted"
        " unpickler",
    )
    trust_remote_code: bool = setting(
        "FJARR_TRUST_REMOTE_CODE",
        switch,
        False,  # noqa: FBT003 - see above
        "`on` runs the Python code in a model's repository",
    )
    engine: str = setting(
        "FJARR_ENGINE",
        one_of(*ENGINE_CHOICES),
        "auto",
        ", ".join(f"`{name}`" for name in ENGINE_CHOICES)
        + "; `auto` is vLLM if it is installed, there is a GPU and it can serve the model, else transformers",
    )
    device: str = setting(
        "FJARR_DEVICE",
        one_of("auto", "cpu", "cuda"),
        "auto",
        "`auto`, `cpu` or `cuda`; `auto` is the GPU if there is one",
    )
    dtype: str = setting(
        "FJARR_DTYPE",
        one_of("auto", "bfloat16", "float16", "float32"),
        "auto",
        "`auto`, `bfloat16`, `float16` or `float32`; `auto` is bfloat16 on a GPU of compute capability 8.0 or"
        " higher, float16 on an older one, and bfloat16 on a CPU, unless the CPU cannot multiply bfloat16 and"
        " float32 fits in memory",
    )
    quantization: str = setting(
        "FJARR_QUANTIZATION",
        one_of("auto", "none", "nf4", "int8"),
        "auto",
        "`auto`, `none`, `nf4` or `int8`; `auto` is nf4 if the weights would take more than three quarters of"
        " the GPU's free memory, else none",
    )
    tensor_parallel: int | None = setting(
        "FJARR_TENSOR_PARALLEL",
        auto_or(whole_number(1, 64)),
        None,
        "for the engine vllm: the number of GPUs that a model is split over; `auto` is all that the replica"
        " has, or as many as the model's attention heads can be divided by; on a CPU, the number of"
        " processes, one for `auto`",
        "`auto`",
    )
    attention: str = setting(
        "FJARR_ATTENTION",
        one_of("auto", "sdpa", "eager", "flash_attention_2"),
        "auto",
        "for the engine transformers: `auto`, `sdpa`, `eager` or `flash_attention_2`; `auto` is"
        " flash_attention_2 if the GPU, the model and the packages support it, else sdpa, and on a CPU the"
        " server's own implementation",
    )
    threads: int | None = setting(
        "FJARR_THREADS",
        whole_number(1),
        None,
        "the number of threads that compute on a CPU",
        "what the engine chooses",
    )
    max_new_tokens: int = setting(
        "FJARR_MAX_NEW_TOKENS",
        whole_number(1),
        1024,
        "the limit of an answer's tokens if the request sets none",
    )
    max_context_tokens: int | None = setting(
        "FJARR_MAX_CONTEXT_TOKENS",
        whole_number(16),
        None,
        "a limit for prompt and answer together, below the model's own",
        "the model's own limit",
    )
    kv_cache_tokens: int | None = setting(
        "FJARR_KV_CACHE_TOKENS",
        whole_number(64),
        None,
        "the number of tokens that a model's key-value cache holds",
        "calculated from the free memory",
    )
    max_concurrent: int | None = setting(
        "FJARR_MAX_CONCURRENT",
        auto_or(whole_number(1, 256)),
        None,
        "how many answers are generated at once; further requests wait. `auto` is as many as end within the"
        " time limit: at most 64 (256 with vLLM on a GPU), and fewer the longer they may be, by the speed"
        " that is measured at the start and written to the log",
        "`auto`",
    )
    max_waiting: int = setting(
        "FJARR_MAX_WAITING",
        whole_number(0),
        128,
        "how many requests may wait; further ones are answered with 429",
    )
    max_per_key: int | None = setting(
        "FJARR_MAX_PER_KEY",
        whole_number(1),
        None,
        "how many answers one key may have at once, including those that wait; further requests are answered"
        " with 429",
        "no limit",
    )
    max_body_bytes: int = setting(
        "FJARR_MAX_BODY_BYTES", whole_number(1024), 4 * 1024 * 1024, "the size limit of a request's body"
    )
    request_timeout_s: float = setting(
        "FJARR_REQUEST_TIMEOUT_S",
        seconds(1, INGRESS_LIMIT_S - 1),
        230.0,
        "how long a request may take, including the time in the queue; the ingress's limit is 240. A request"
        " that would take longer, because of what is queued, is answered with 429 at once",
    )
    heartbeat_s: float = setting(
        "FJARR_HEARTBEAT_S",
        seconds(0.05, INGRESS_LIMIT_S - 1),
        15.0,
        "how long a stream may be silent before a comment is sent",
    )
    body_timeout_s: float = setting(
        "FJARR_BODY_TIMEOUT_S",
        seconds(0.05, INGRESS_LIMIT_S - 1),
        30.0,
        "how long a client may take to send a request's body",
    )
    drain_grace_s: float = setting(
        "FJARR_DRAIN_GRACE_S",
        seconds(0, 600),
        25.0,
        "how long requests in flight may continue after SIGTERM",
    )
    cors_origins: tuple[str, ...] = setting(
        "FJARR_CORS_ORIGINS",
        origin_list,
        (),
        "the origins whose pages may call `/v1` from a browser, separated by commas; `*` allows all",
        "none",
    )
    metrics: str = setting(
        "FJARR_METRICS",
        one_of("on", "open", "off"),
        "on",
        "`on` serves `/metrics` to callers with an API key, `open` to everyone, `off` to no one",
    )
    log_format: str = setting(
        "FJARR_LOG_FORMAT", one_of("text", "json"), "text", "`text`, or `json` for one object per line"
    )
    log_level: str = setting(
        "FJARR_LOG_LEVEL",
        one_of("debug", "info", "warning", "error"),
        "info",
        "`debug`, `info`, `warning` or `error`",
    )
    log_prompts: bool = setting(
        "FJARR_LOG_PROMPTS",
        switch,
        False,  # noqa: FBT003 - see above
        "`on` logs prompts and answers",
    )
    feedback: bool = setting(
        "FJARR_FEEDBACK",
        switch,
        False,  # noqa: FBT003 - see above
        "`on` shows thumbs under the chat page's answers, and keeps them with prompt and answer as training"
        " data in `feedback/` on the share",
    )
    socket_fd: int | None = setting(
        "FJARR_SOCKET_FD",
        whole_number(3),
        None,
        "the listening socket that `inference.start` passes on; not for users",
        "none",
    )
    control_fd: int | None = setting(
        "FJARR_CONTROL_FD",
        whole_number(3),
        None,
        "the server's channel to its supervisor; not for users",
        "none",
    )
    engine_socket: Path | None = setting(
        "FJARR_ENGINE_SOCKET",
        Path,
        None,
        "the Unix socket of the engine's process, if it has one of its own; not for users",
        "none",
    )
    revision: str = setting("CONTAINER_APP_REVISION", text, "", "the app's revision")
    replica: str = setting("CONTAINER_APP_REPLICA_NAME", text, "", "the replica's name")
    # OpenTelemetry's own variables. Its library reads the others, such as OTEL_SERVICE_NAME and
    # OTEL_EXPORTER_OTLP_HEADERS.
    otlp_endpoint: str | None = setting(
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        text,
        None,
        "the collector that receives traces",
        "none",
    )
    otlp_protocol: str = setting(
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
        text,
        "http/protobuf",
        "the protocol of traces; only `http/protobuf` is supported",
    )


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the environment.

    Raises:
        SettingsError: With every unknown name and every bad value.
    """
    values, problems = _parse_all(environ)
    problems += _find_unknown(environ)
    # Without a key nobody can sign in. If every caller is served, only an explicit `on` is a mistake.
    values.setdefault("chat_sign_in", bool(values.get("api_keys") or values.get("auth", True)))
    settings = dataclasses.replace(Settings(), **values)  # type: ignore[arg-type]  # `setting` relates parser and field
    problems += _find_missing_keys(settings)
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _parse_all(environ: Mapping[str, str]) -> tuple[dict[str, object], list[str]]:
    """Return the values by field, and the problems."""
    values: dict[str, object] = {}
    problems: list[str] = []
    for field, declared in SETTINGS.items():
        for variable in declared.variables:
            value = environ.get(variable, "").strip()
            if not value:
                continue
            try:
                values[field] = declared.parse(value)
            except ValueError as error:
                problems.append(f"{variable}: {error}")
    return values, problems


def _find_unknown(environ: Mapping[str, str]) -> list[str]:
    known = sorted(each.name for each in SETTINGS.values() if each.name.startswith(PREFIX))
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    return [f"{name}: no such setting; there are {', '.join(known)}" for name in unknown]


def _find_missing_keys(settings: Settings) -> list[str]:
    if settings.api_keys:
        return []
    if settings.auth:
        return [f"{API_KEYS_VARIABLE}: it is empty; set a key, or FJARR_AUTH=off to serve everybody"]
    if settings.chat_sign_in:
        return [f"FJARR_CHAT_SIGN_IN: it is on, and there is no key in {API_KEYS_VARIABLE} to sign in with"]
    return []


SETTINGS: Final[Mapping[str, Setting]] = {
    field.name: field.metadata["setting"] for field in dataclasses.fields(Settings)
}
"""How each field is set."""
