"""The evaluator of expressions and of the JSON that contains them.

It is used twice in a deployment. Before the deployment runs, expressions that depend on a resource stay
`Residual`, and so do secure parameters, so that no plan shows them. While it runs, a `Runtime` provides the
values, and every expression is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from localcloud.template.bindings import Bindings, Section
from localcloud.template.errors import ExpressionError, NeedsRuntime, TemplateError, function_error
from localcloud.template.parser import is_expression, parse, plain_text
from localcloud.template.registry import find_function
from localcloud.template.syntax import Access, FunctionCall, Literal, text_of
from localcloud.template.values import Residual, Value, end_of, find_key, kind, node_of, position_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcloud.template.model import Scope
    from localcloud.template.syntax import Node

MAX_COPIES: Final = 800


@dataclass(frozen=True, slots=True)
class Evaluator:
    """The evaluator of expressions in one section, with the loops and lambdas around them.

    Args:
        bindings: What names refer to.
        section: The section of the template that the expressions are in.
        copies: The index of each loop around, by the loop's name.
        innermost: The name of the innermost loop.
        lambdas: The variables of the lambdas around.
    """

    bindings: Bindings
    section: Section
    copies: Mapping[str, int] = field(default_factory=dict)
    innermost: str | None = None
    lambdas: Mapping[str, Value] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        """Where the template is deployed."""
        return self.bindings.scope

    def with_copy(self, name: str, index: int) -> Evaluator:
        """Return the evaluator for one iteration of a loop, which is then the innermost one."""
        return replace(self, copies={**self.copies, name: index}, innermost=name)

    def with_lambda(self, variables: Mapping[str, Value]) -> Evaluator:
        """Return the evaluator for a lambda's body."""
        return replace(self, lambdas={**self.lambdas, **variables})

    def tree(self, document: Any) -> Value:  # noqa: ANN401 - any JSON value
        """Evaluate every expression of a JSON value, including property loops.

        Raises:
            ExpressionError: An expression cannot be evaluated.
        """
        match document:
            case str():
                return self.text(document)
            case list():
                return [self.tree(item) for item in document]
            case dict():
                return self._object(document)
        return document

    def text(self, text: str) -> Value:
        """Evaluate a string of the template, which may be an expression."""
        return self.evaluate(parse(text)) if is_expression(text) else plain_text(text)

    def known(self, document: Any, wanted: str) -> Value:  # noqa: ANN401 - any JSON value
        """Evaluate a value that must be known before the deployment runs, and must have a certain type.

        Raises:
            ExpressionError: It is not known, or has another type.
        """
        value = self.tree(document)
        if isinstance(value, Residual):
            for call in (value.node,) if isinstance(value.node, FunctionCall) else ():
                raise function_error(f"The template function '{call.name}' is not expected at this location.")
            raise function_error("A value that is only known at run time is not expected at this location.")
        found = kind(value)
        if found != wanted:
            shown = "null" if value is None else str(value)
            raise ExpressionError(
                f"Evaluation result of language expression '{shown}' is type '{found}', "
                f"expected type is '{wanted}'."
            )
        return value

    def evaluate(self, node: Node) -> Value:
        """Evaluate an expression as far as possible."""
        match node:
            case Literal(value=value):
                return value
            case Access(target=target, key=key):
                return access(self.evaluate(target), self.evaluate(key))
            case FunctionCall():
                return self._call(node)

    def loop(self, loop: dict[str, Any]) -> list[Value]:
        """Evaluate the ``input`` of a named loop ``count`` times."""
        if _has_loop(loop.get("input")):
            line, column = position_of(loop)
            raise TemplateError(
                f"The template 'copy' definition at line '{line}' and column '{column}' has nested copy "
                "arrays. The use of nested copy arrays is not supported. Please see "
                "https://aka.ms/arm-resource-loops for usage details.",
                line=line,
                column=column,
            )
        iterations = range(self.count(loop))
        inside = [replace(self, copies={**self.copies, loop["name"]: index}) for index in iterations]
        return [evaluator.tree(loop.get("input")) for evaluator in inside]

    def count(self, loop: dict[str, Any]) -> int:
        """Return the number of iterations of a loop.

        Raises:
            TemplateError: Azure does not allow this number.
        """
        count = self.tree(loop.get("count"))
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_COPIES:
            return count
        line, column = end_of(loop, "count") if isinstance(loop.get("count"), str) else position_of(loop)
        shown = f"[{text_of(count.node)}]" if isinstance(count, Residual) else count
        raise TemplateError(
            f"The template 'copy' definition at line '{line}' and column '{column}' has an invalid copy "
            f"count of: '{shown}'. The copy count must be a non-negative integer value and cannot exceed "
            f"'{MAX_COPIES}'. Please see https://aka.ms/arm-resource-loops for usage details.",
            line=line,
            column=column,
        )

    def freeze(self, node: Node) -> Node:
        """Replace the loop indices of an expression that will be evaluated later, outside of the loops."""
        match node:
            case FunctionCall(name=name) if name.lower() == "copyindex" and self.copies:
                return node_of(self._call(node))
            case FunctionCall(name=name, arguments=arguments):
                return FunctionCall(name, tuple(map(self.freeze, arguments)))
            case Access(target=target, key=key):
                return Access(self.freeze(target), self.freeze(key))
        return node

    def _object(self, document: dict[str, Any]) -> Value:
        found: dict[str, Value] = {}
        for key, value in document.items():
            if key == "copy" and isinstance(value, list):
                found |= {self.known(loop["name"], "String"): self.loop(loop) for loop in value}
                continue
            name = self.known(key, "String") if is_expression(key) else key
            found[name] = self.tree(value)
        return found

    def _call(self, call: FunctionCall) -> Value:
        if "." in call.name:
            return self._call_user_function(call)
        found = find_function(call.name)
        if found is None:
            raise function_error(f"The template function '{call.name}' is not valid.")
        found.signature.check_count(call.name, len(call.arguments))
        if found.lazy is not None:
            return found.lazy(self, call)
        arguments = tuple(map(self.evaluate, call.arguments))
        try:
            found.signature.check_kinds(call.name, arguments)
            return found.call(self, arguments) if found.call else None
        except NeedsRuntime:
            return Residual(FunctionCall(call.name, tuple(map(node_of, arguments))))

    def _call_user_function(self, call: FunctionCall) -> Value:
        found = self.bindings.user_functions.get(call.name.lower())
        if found is None:
            raise function_error(f"The template function '{call.name}' is not valid.")
        if len(call.arguments) != len(found.parameters):
            raise ExpressionError(
                f"Unable to evaluate template language function '{call.name}': function requires "
                f"{len(found.parameters)} argument(s) while {len(call.arguments)} were provided."
            )
        given = dict(zip(found.parameters, map(self.evaluate, call.arguments), strict=True))
        inside = replace(self.bindings, parameter=given.__getitem__, runtime=None)
        return Evaluator(inside, Section.FUNCTION).tree(found.output)


def access(target: Value, key: Value) -> Value:
    """Return a property of an object or an element of an array.

    Raises:
        ExpressionError: It does not exist.
    """
    if isinstance(target, Residual) or isinstance(key, Residual):
        return Residual(Access(node_of(target), node_of(key)))
    match target, key:
        case dict(), str():
            name = find_key(target, key)
            if name is not None:
                return target[name]
            raise ExpressionError(
                f"The language expression property '{key}' doesn't exist, "
                f"available properties are '{', '.join(target)}'."
            )
        case list(), int() if not isinstance(key, bool):
            if 0 <= key < len(target):
                return target[key]
            raise ExpressionError(f"The language expression property array index '{key}' is out of bounds.")
    raise ExpressionError(f"The language expression property '{key}' can't be evaluated.")


def _has_loop(document: Any) -> bool:  # noqa: ANN401 - any JSON value
    match document:
        case list():
            return any(map(_has_loop, document))
        case dict():
            return isinstance(document.get("copy"), list) or any(map(_has_loop, document.values()))
    return False
