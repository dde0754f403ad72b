"""The reference evaluator for templates: Azure's own, which is part of the Bicep CLI and works offline.

`python tests/snapshots/judge.py` compiles the project's template and regenerates every committed snapshot. A
new expression in `language/expressions.json` has the value null until then. The tests compare the local
cloud's evaluator with the snapshots, and, if the CLI is on PATH, the snapshots with what the CLI returns now.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCE = ROOT / "infra" / "provision" / "inference.bicep"
TEMPLATE = SOURCE.with_suffix(".json")
INFERENCE = HERE / "inference"
LANGUAGE = HERE / "language"
SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
PLACE = {
    "subscriptionId": "00000000-0000-0000-0000-000000000000",
    "tenantId": "11111111-1111-1111-1111-111111111111",
    "resourceGroup": "my-rg",
    "location": "swedencentral",
    "deploymentName": "inference",
}


class RejectedError(Exception):
    """A template that the Bicep CLI rejects; the text is Azure's message."""


class Judge:
    """A running `bicep jsonrpc`, which is ten times faster than a process for each template."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="judge-"))
        self._process = subprocess.Popen(
            [bicep(), "jsonrpc", "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)  # closes its input, which ends it
        shutil.rmtree(self._folder)

    def snapshot(self, template: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the resources and outputs of a template; null parameters are omitted."""
        self._count += 1  # a new name each time: the CLI caches files
        name = f"case{self._count}"
        given = {key: value for key, value in parameters.items() if value is not None}
        (self._folder / f"{name}.json").write_text(template, encoding="utf-8")
        (self._folder / f"{name}.values.json").write_text(json.dumps(given), encoding="utf-8")
        lines = [f"using '{name}.json'"]
        lines += [f"param {key} = loadJsonContent('{name}.values.json').{key}" for key in given]
        path = self._folder / f"{name}.bicepparam"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        request = {"path": str(path), "metadata": PLACE, "externalInputs": []}
        found = json.loads(self._call("bicep/getSnapshot", request)["snapshot"])
        outputs = dict(sorted((found["outputs"] or {}).items()))  # the CLI's order varies
        return {"predictedResources": found["predictedResources"], "outputs": outputs}

    def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(
            {"jsonrpc": "2.0", "id": self._count, "method": method, "params": [parameters]}
        ).encode()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._process.stdin.flush()
        size = 0
        while header := self._process.stdout.readline().strip():
            if header.lower().startswith(b"content-length:"):
                size = int(header.partition(b":")[2])
        answer = json.loads(self._process.stdout.read(size))
        if "error" in answer:
            raise RejectedError(answer["error"]["message"])
        return dict(answer["result"])


def bicep() -> str:
    """Return the path of the Bicep CLI."""
    program = shutil.which("bicep")
    assert program, "this needs the Bicep CLI on PATH"
    return program


def compile_template() -> None:
    """Format the project's template and compile it; its errors and warnings go to stderr."""
    for verb in ("format", "build"):
        subprocess.run([bicep(), verb, SOURCE], check=True)


def read(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def values_of(path: Path) -> dict[str, Any]:
    """Return the values of a parameters file; none if it does not exist."""
    entries = read(path)["parameters"] if path.exists() else {}
    return {name: entry["value"] for name, entry in entries.items()}


def cases(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the cases of a folder by name: the template and the values of its parameters."""
    if folder == INFERENCE:
        found = sorted(folder.glob("*.parameters.json"))
        return {path.name.removesuffix(".parameters.json"): (TEMPLATE, values_of(path)) for path in found}
    templates = [path for path in sorted(folder.glob("*.json")) if path.name.count(".") == 1]
    return {path.stem: (path, values_of(path.with_suffix(".parameters.json"))) for path in templates}


def expressions_template(expressions: dict[str, str], context: dict[str, Any]) -> str:
    """Return a template that puts each expression into a property of the same name."""
    properties = {name: f"[{text}]" for name, text in expressions.items()}
    account = {"type": "Microsoft.Storage/storageAccounts", "apiVersion": "2025-08-01"}
    return json.dumps(
        {
            "$schema": SCHEMA,
            "languageVersion": "2.0",
            "contentVersion": "1.0.0.0",
            **context,
            "resources": {
                "other": {**account, "name": "other"},
                "probe": {**account, "name": "probe", "properties": properties},
            },
        }
    )


def invalid_template(fragment: dict[str, Any]) -> str:
    """Return a complete template around an invalid part."""
    return json.dumps({"$schema": SCHEMA, "contentVersion": "1.0.0.0", "languageVersion": "2.0", **fragment})


def properties_of(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return the evaluated expressions of an `expressions_template`."""
    probe = next(each for each in snapshot["predictedResources"] if each["name"] == "probe")
    return dict(probe["properties"])


def error_message(judge: Judge, template: str, parameters: dict[str, Any]) -> str:
    """Return the message with which the CLI rejects a template."""
    try:
        judge.snapshot(template, parameters)
    except RejectedError as exc:
        return str(exc)
    raise AssertionError(f"the CLI does not reject {template}")


def judged_expressions(judge: Judge) -> dict[str, Any]:
    """Return the table of expressions with the CLI's current values and errors."""
    table = read(LANGUAGE / "expressions.json")
    given = values_of(LANGUAGE / "expressions.parameters.json")
    named = {f"e{index}": text for index, text in enumerate(table["values"])}
    found = properties_of(judge.snapshot(expressions_template(named, table["context"]), given))
    errors = {
        text: error_message(judge, expressions_template({"e": text}, table["context"]), given)
        for text in table["errors"]
    }
    return {
        "context": table["context"],
        "values": {text: found[name] for name, text in named.items()},
        "errors": errors,
    }


def judged_errors(judge: Judge) -> dict[str, Any]:
    """Return the table of invalid templates with the CLI's current errors."""
    return {
        name: {**case, "message": error_message(judge, invalid_template(case["template"]), {})}
        for name, case in read(LANGUAGE / "errors.json").items()
    }


def write(path: Path, document: Any) -> None:
    """Write a JSON file in the repository's format."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Compile the project's template, and regenerate every committed snapshot."""
    compile_template()
    with Judge() as judge:
        for folder in (INFERENCE, LANGUAGE / "templates"):
            for name, (template, parameters) in cases(folder).items():
                snapshot = judge.snapshot(template.read_text(encoding="utf-8"), parameters)
                write(folder / f"{name}.snapshot.json", snapshot)
        write(LANGUAGE / "expressions.json", judged_expressions(judge))
        write(LANGUAGE / "errors.json", judged_errors(judge))


if __name__ == "__main__":
    main()
