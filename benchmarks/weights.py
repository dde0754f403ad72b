"""Prepare a model and an adapter in the layouts that the contestants are started on.

Every answer of a contest must have the same length, on any server. So the model is a copy that does not end
its answers: its files name a token that it never generates as the end token. Weights are linked, not copied.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE_NAME: Final = "bench/base"
MERGED_NAME: Final = "bench/merged"
ADAPTER_NAME: Final = "bench-1"


@dataclass(frozen=True, slots=True)
class Weights:
    """The prepared folders.

    Attributes:
        base: The base model that does not end its answers.
        adapters: Adapters as (name, folder); all have the same weights. Empty without an adapter.
        merged: The base with the adapter merged; None without an adapter.
        mount: A share with only the base.
        adapter_mount: A share with the base and the first adapter.
        adapters_mount: A share with the base and all adapters.
        merged_mount: A share with only the merged model.
        is_endless: Whether the end token could be replaced.
    """

    base: Path
    adapters: tuple[tuple[str, Path], ...]
    merged: Path | None
    mount: Path
    adapter_mount: Path
    adapters_mount: Path
    merged_mount: Path
    is_endless: bool


def prepare_weights(
    model: Path, adapter: Path | None, work: Path, python: str, adapter_count: int
) -> Weights:
    """Create all layouts below a folder, replacing older ones.

    Raises:
        StartError: If the adapter cannot be merged.
    """
    shutil.rmtree(work, ignore_errors=True)
    base = work / "base"
    is_endless = make_endless(model.resolve(), base)
    names = [f"bench-{number}" for number in range(1, adapter_count + 1)] if adapter else []
    adapters = tuple((name, adapter.resolve()) for name in names if adapter)
    merged = None
    if adapter:
        merged = work / "merged"
        command = [python, "-m", "benchmarks.merge", str(base), str(adapter.resolve()), str(merged)]
        processes.run(command, Path.cwd(), work / "merge.log")
    return Weights(
        base=base,
        adapters=adapters,
        merged=merged,
        mount=_make_mount(work / "mount", BASE_NAME, base, ()),
        adapter_mount=_make_mount(work / "adapter-mount", BASE_NAME, base, adapters[:1]),
        adapters_mount=_make_mount(work / "adapters-mount", BASE_NAME, base, adapters),
        merged_mount=_make_mount(work / "merged-mount", MERGED_NAME, merged or base, ()),
        is_endless=is_endless,
    )


def prepare_gguf(
    source: Path, formats: Sequence[str], work: Path, python: str
) -> tuple[tuple[str, Path], ...]:
    """Write a GGUF file in each format, by an interpreter with `gguf`, and return them by format.

    Raises:
        StartError: If a file cannot be written.
    """
    work.mkdir(parents=True, exist_ok=True)
    files = tuple((each, work / f"{each}.gguf") for each in formats)
    for data_format, file in files:
        command = [python, "-m", "benchmarks.gguf_copy", str(source.resolve()), str(file), data_format]
        processes.run(command, Path.cwd(), work / "gguf.log")
    return files


def make_endless(model: Path, target: Path) -> bool:
    """Copy a model, by links, with an end token that it never generates; return whether there is one."""
    target.mkdir(parents=True)
    token = find_unused_token(model)
    for file in sorted(model.iterdir()):
        if token and file.name in {"config.json", "generation_config.json", "tokenizer_config.json"}:
            document = json.loads(file.read_text())
            (target / file.name).write_text(json.dumps(replace_end(document, *token), indent=2))
        elif file.is_file():
            (target / file.name).symlink_to(file)
    return token is not None


def find_unused_token(model: Path) -> tuple[int, str] | None:
    """Return the last special token of a model's tokenizer that its chat template does not use."""
    if not (model / "tokenizer.json").is_file():
        return None
    settings = (model / "tokenizer_config.json").read_text()
    used = {value for key, value in json.loads(settings).items() if key.endswith("_token")}
    template = json.loads(settings).get("chat_template") or ""
    template_file = model / "chat_template.jinja"
    template += template_file.read_text() if template_file.is_file() else ""
    added = json.loads((model / "tokenizer.json").read_text()).get("added_tokens", [])
    unused = [
        (int(token["id"]), str(token["content"]))
        for token in added
        if token["special"] and token["content"] not in used and token["content"] not in template
    ]
    return unused[-1] if unused else None


def replace_end(document: dict[str, Any], token_id: int, token: str) -> dict[str, Any]:
    """Return a configuration with the end token replaced."""
    ends = {"eos_token_id": token_id, "eos_token": token}
    return {key: ends.get(key, value) for key, value in document.items()}


def _make_mount(mount: Path, name: str, base: Path, adapters: Sequence[tuple[str, Path]]) -> Path:
    link = mount / "model-cache" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(base, target_is_directory=True)
    for adapter_name, folder in adapters:
        link = mount / "models" / adapter_name / "adapter"
        link.parent.mkdir(parents=True)
        link.symlink_to(folder, target_is_directory=True)
    return mount
