"""Generate the documentation's blocks and other files from the code, or check that they are up to date.

A block is between the lines `<!-- NAME -->` and `<!-- end NAME -->`. The files are the schema of the
server's settings, by which the pipeline checks environment variables, and the digest of the Bicep source.
`nox -s docs` checks all of them, and `python docs/generate.py --write` generates them again.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from invoke import Collection  # noqa: E402  # the project's folder has to be on the path first

import tasks  # noqa: E402
from docs import interfaces  # noqa: E402
from inference.models.hardware import Hardware  # noqa: E402
from inference.models.memory import ModelSize  # noqa: E402
from inference.models.plan import (  # noqa: E402
    QUANTIZATION_PLUGIN,
    Model,
    ModelShape,
    fits_plan,
    plan_serving,
)
from inference.setting_parsers import adapter_list, origin_list, switch, template  # noqa: E402
from inference.settings import PREFIX, SETTINGS, Settings  # noqa: E402
from infra.config.template import BICEP, SOURCE_DIGEST, source_digest  # noqa: E402

GIB = 2**30

# What parsers of texts accept, as rules and patterns. A test compares them with the parsers.
_ORIGIN = r"\s*(\*|https?://[^/?#\s,]+/*)?\s*"
_ADAPTER = r"(?!\s*\*\s*(,|$))\s*[^\s,][^,]*"
TEXT_RULES = {
    adapter_list: (
        "must be folders on the share, separated by commas, or '*'",
        rf"^(\s*\*\s*|{_ADAPTER}(,{_ADAPTER})*)$",
    ),
    origin_list: (
        "must be origins such as https://host, separated by commas, or '*'",
        rf"^{_ORIGIN}(,{_ORIGIN})*$",
    ),
    template: (
        "must have exactly one {}, where the user's message goes",
        r"^((?!\{\})[\s\S])*\{\}((?!\{\})[\s\S])*$",
    ),
}


def _card(name: str, capability: tuple[int, int], gib: int, count: int = 1) -> Hardware:
    return Hardware(
        name, capability, gib * GIB, 200 * GIB, has_cpu_bf16=True, gpu_count=count, gpu_total_bytes=gib * GIB
    )


# What is free on a card that nothing else uses. A replica on Consumption has 8 GiB, of which the server
# itself takes one.
CARDS = {
    "no GPU, 8 GiB": Hardware(None, None, 0, 7 * GIB, has_cpu_bf16=True),
    "T4, 16 GB": _card("Tesla T4", (7, 5), 15),
    "A100, 80 GB": _card("NVIDIA A100", (8, 0), 79),
    "two A100": _card("NVIDIA A100", (8, 0), 79, 2),
    "four A100": _card("NVIDIA A100", (8, 0), 79, 4),
    "H100, 80 GB": _card("NVIDIA H100", (9, 0), 79),
}
# From their configurations and the headers of their files.
MODELS = {
    "SmolLM2-135M": Model(ModelSize(134_515_008, 28_311_552, (), 11_520), ModelShape(9, 3, 1536, 8192)),
    "Phi-3-mini, 3.8B": Model(
        ModelSize(3_821_079_552, 197_001_216, (), 196_608), ModelShape(32, 32, 8192, 4096)
    ),
    "Llama-3.1-8B": Model(
        ModelSize(8_030_261_248, 1_050_673_152, (), 65_536), ModelShape(32, 8, 14_336, 131_072)
    ),
    "Qwen2.5-32B": Model(
        ModelSize(32_763_876_352, 1_557_135_360, (), 131_072), ModelShape(40, 8, 27_648, 32_768)
    ),
    "Llama-3.1-70B": Model(
        ModelSize(70_553_706_496, 2_101_346_304, (), 163_840), ModelShape(64, 8, 28_672, 131_072)
    ),
}

TEMPLATE = ROOT / "infra/provision/inference.json"
EXAMPLE = ROOT / "examples/ticket-triage"
SHOWN = ("answers", "results")


def verbs() -> str:
    """List the verbs as `invoke --list` does."""
    namespace = Collection.from_module(tasks)
    rows = ["| verb | what it does |", "|---|---|"]
    for name in sorted(namespace.task_names):
        summary = " ".join((namespace[name].__doc__ or "").split("\n\n")[0].split())
        rows.append(f"| `invoke {name}` | {summary} |")
    return "\n".join(rows)


def parameters() -> str:
    """Describe the template's parameters from their metadata."""
    template = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for name, parameter in template["parameters"].items():
        default = "null" if parameter.get("nullable") else _default(parameter.get("defaultValue"))
        kind = parameter.get("type") or parameter["$ref"].rpartition("/")[2]
        meaning = parameter.get("metadata", {}).get("description", "").replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | {default} | {meaning} |")
    return "\n".join(rows)


def plans() -> str:
    """Show what the server chooses for known cards and models; `plan_serving` is what a start runs."""
    rows = [
        "| hardware | model | engine | dtype | quantisation | GPUs used | cache, tokens | context, tokens |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    packages = {"vllm", QUANTIZATION_PLUGIN.replace("-", "_")}
    for place, hardware in CARDS.items():
        for name, model in MODELS.items():
            plan = plan_serving(model, hardware, Settings(), packages.__contains__)
            if not fits_plan(plan, model, hardware, Settings()):
                rows.append(f"| {place} | {name} | does not fit | | | | | |")
                continue
            placement = plan.placement
            rows.append(
                f"| {place} | {name} | {plan.engine} | {placement.dtype} | {placement.quantization} |"
                f" {plan.cards if placement.device == 'cuda' else 0} | {_rounded(plan.cache_tokens)} |"
                f" {_rounded(plan.context_tokens)} |"
            )
    return "\n".join(rows)


def settings() -> str:
    """Describe the server's settings from their declarations."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows += [
        f"| `{setting.name}` | {setting.shown_default} | {setting.meaning} |"
        for setting in SETTINGS.values()
        if setting.name.startswith(PREFIX)
    ]
    return "\n".join(rows)


def example() -> str:
    """Show the example's scores and answers from the example's own page, where its evaluation wrote them."""
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    parts = (
        re.search(rf"<!-- {name}: [^>]*-->\n(.*?)<!-- end of {name} -->", page, re.DOTALL) for name in SHOWN
    )
    return "\n\n".join(part[1].strip() for part in parts if part)


def modules(folder: Path) -> str:
    """List the modules of a folder with the first sentence of their docstrings."""
    rows = ["| module | |", "|---|---|"]
    for path in sorted(folder.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if path.name != "__init__.py":
            summary = " ".join((docstring or "").split("\n\n")[0].split()).replace("|", "\\|")
            rows.append(f"| `{path.stem}` | {summary} |")
    return "\n".join(rows)


def server_settings() -> str:
    """Return the JSON Schema of the server's settings, which the pipeline validates variables by."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The server's settings: environment variables of the container",
        "description": "must map settings to values",
        "$comment": "Generated from inference/settings.py by docs/generate.py.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            setting.name: _setting_schema(setting.parse)
            for setting in SETTINGS.values()
            if setting.name.startswith(PREFIX)
        },
    }
    return json.dumps(schema, indent=2) + "\n"


def _setting_schema(parse: Callable[[str], object]) -> dict[str, object]:
    """Return the schema of what a parser of the server accepts, if that is a list, a range or a pattern."""
    bound = inspect.getclosurevars(parse).nonlocals if inspect.isfunction(parse) else {}
    if parse is switch:
        return {"description": "must be 'on' or 'off'", "enum": ["on", "off"]}
    if "choices" in bound:
        return {
            "description": f"must be one of {', '.join(bound['choices'])}",
            "enum": list(bound["choices"]),
        }
    if parse in TEXT_RULES:
        rule, pattern = TEXT_RULES[parse]
        return {"description": rule, "type": "string", "pattern": pattern}
    if "parse" in bound:
        inner = _setting_schema(bound["parse"])
        rule = str(inner.pop("description")).replace("must be", "must be 'auto' or", 1)
        return {"description": rule, "anyOf": [{"const": "auto"}, inner]}
    if "least" not in bound:
        return {"description": "must be text", "type": "string"}
    is_whole = parse.__qualname__.startswith("whole_number")
    kind, name = ("integer", "a whole number") if is_whole else ("number", "a number of seconds")
    least, most = bound["least"], bound["most"]
    extent = f"of at least {least:g}" if most is None else f"from {least:g} to {most:g}"
    limits = {"minimum": least} if most is None else {"minimum": least, "maximum": most}
    return {"description": f"must be {name} {extent}", "type": kind, **limits}


def _rounded(number: int) -> str:
    """Return a number in two significant digits if it is an estimate, and in full if it is a power of two."""
    if number & (number - 1) == 0:
        return f"{number:,}"
    unit = 10 ** max(0, len(str(number)) - 2)
    return f"{number // unit * unit:,}"


FILES: dict[Path, Callable[[], str]] = {
    ROOT / "templates/server.settings.schema.json": server_settings,
    ROOT / SOURCE_DIGEST: lambda: f"{source_digest(ROOT / BICEP)}  {BICEP.name}\n",
}

BLOCKS = {
    "verbs": verbs,
    "commands": interfaces.commands,
    "exit codes": interfaces.exit_codes,
    "http": interfaces.http_paths,
    "metrics": interfaces.metrics,
    "parameters": parameters,
    "settings": settings,
    "plans": plans,
    "example": example,
}


MODULES_BLOCK = re.compile(r"(<!-- modules (\S+) -->\n).*?(<!-- end modules \2 -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return a page with its blocks generated again."""
    for name, make in BLOCKS.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if block.search(text):
            text = block.sub(partial(_replace, make()), text)
    return MODULES_BLOCK.sub(lambda found: _replace(modules(ROOT / found[2]), found), text)


def _replace(content: str, found: re.Match[str]) -> str:
    return f"{found[1]}{content}\n{found[found.re.groups]}"


def main() -> int:
    """Check all pages, or write them. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="fill the blocks instead of checking them")
    is_writing = parser.parse_args().write
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            stale.append(page)
            if is_writing:
                page.write_text(filled, encoding="utf-8")
    for path, make in FILES.items():
        content = make()
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(path)
            if is_writing:
                path.write_text(content, encoding="utf-8")
    names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
    if stale and not is_writing:
        print(f"out of date: {names}; run: python docs/generate.py --write", file=sys.stderr)
        return 1
    print(f"written: {names}" if stale else "all pages are up to date")
    return 0


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    sys.exit(main())
