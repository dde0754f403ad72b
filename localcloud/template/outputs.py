"""The outputs of a template: before the deployment runs as far as they are known, then in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localcloud.template.bindings import Section
from localcloud.template.errors import ExpressionError, NeedsRuntime, TemplateError
from localcloud.template.evaluator import Evaluator
from localcloud.template.values import Value, require_known, to_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.template.bindings import Bindings
    from localcloud.template.parameters import Types


class Outputs:
    """The outputs that a template declares.

    Args:
        declared: The template's ``outputs``.
        types: The template's types.
    """

    def __init__(self, declared: dict[str, dict[str, Any]], types: Types) -> None:
        self._declared = declared
        self._types = types

    def plan(self, bindings: Bindings) -> dict[str, Any]:
        """Return the values by name; what is not known yet is an expression in brackets.

        Raises:
            TemplateError: An output is not valid.
        """
        return {name: to_document(value) for name, _, value in self._evaluate(bindings)}

    def echo(self, bindings: Bindings) -> dict[str, dict[str, Any]]:
        """Return types and values by name, as a deployment shows them.

        Raises:
            TemplateError: An output is not valid.
        """
        return {name: self._types.echo(declared, value) for name, declared, value in self._evaluate(bindings)}

    def _evaluate(self, bindings: Bindings) -> Iterator[tuple[str, dict[str, Any], Value]]:
        evaluator = Evaluator(bindings, Section.OUTPUT)
        for name, declared in self._declared.items():
            try:
                if not evaluator.known(declared.get("condition", True), "Boolean"):
                    continue
                loop = declared.get("copy")
                value = _loop_values(evaluator, loop) if loop else evaluator.tree(declared.get("value"))
                if bindings.runtime is not None:
                    require_known(value)
            except (ExpressionError, NeedsRuntime) as exc:
                raise TemplateError(
                    f"The template output '{name}' is not valid: {exc}.",
                    path=f"properties.template.outputs.{name}",
                ) from exc
            self._types.check("output", name, declared, value)
            yield name, declared, value


def _loop_values(evaluator: Evaluator, loop: dict[str, Any]) -> list[Value]:
    """Evaluate the loop of an output, which has no name of its own."""
    iterations = range(evaluator.count(loop))
    return [evaluator.with_copy("", index).tree(loop.get("input")) for index in iterations]
