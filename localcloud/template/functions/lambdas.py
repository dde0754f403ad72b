"""Functions that take a lambda: `map`, `filter`, `reduce`, `sort` and others.

A lambda is a call, ``lambda('item', body)``; its body refers to the variable with
``lambdaVariables('item')``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cmp_to_key
from typing import TYPE_CHECKING

from localcloud.template.errors import NeedsRuntime, function_error
from localcloud.template.registry import ANY, ARRAY, BOOLEAN, OBJECT, STRING, Kinds, kind_error, lazy, ordinal
from localcloud.template.syntax import FunctionCall, Literal, Node
from localcloud.template.values import Residual, Value, find_key, kind, node_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.template.registry import FunctionContext


@dataclass(frozen=True, slots=True)
class Lambda:
    """A lambda and the call that it is an argument of."""

    context: FunctionContext
    function: str
    index: int
    names: tuple[str, ...]
    body: Node

    def __call__(self, *values: Value) -> Value:
        """Evaluate the body; values beyond the lambda's variables are dropped."""
        return self.context.with_lambda(dict(zip(self.names, values, strict=False))).evaluate(self.body)

    def of_kind(self, wanted: Kinds, position: int, *values: Value) -> Value:
        """Evaluate the body for the element at a position; its result must be known and of one type."""
        result = self(*values)
        found = kind(result)
        if found not in wanted:
            raise function_error(
                f"The lambda expression provided to language function '{self.function}' is expected to "
                f"return a value of type '{wanted[0]}', but evaluation on the input element at position "
                f"{position} returned a value of type '{found}'."
            )
        return result


@lazy("lambda", rest=ANY)
def lambda_(_context: FunctionContext, call: FunctionCall) -> Value:
    """Reject a lambda that is not the argument of a function that takes one."""
    raise function_error(f"The template function '{call.name}' is not valid.")


@lazy("lambdaVariables", STRING)
def lambda_variables(context: FunctionContext, call: FunctionCall) -> Value:
    """Return a variable of an enclosing lambda."""
    name = context.evaluate(call.arguments[0])
    if name not in context.lambdas:
        raise function_error(f"The template function '{call.name}' is not valid.")
    return context.lambdas[name]


@lazy("map", ARRAY, ANY)
def map_(context: FunctionContext, call: FunctionCall) -> Value:
    """Apply a lambda to each element."""

    def run(items: list[Value], convert: Lambda) -> Value:
        return [convert(item, index) for index, item in enumerate(items)]

    return _over(context, call, ARRAY, run)


@lazy("filter", ARRAY, ANY)
def filter_(context: FunctionContext, call: FunctionCall) -> Value:
    """Return the elements for which a lambda is true."""

    def run(items: list[Value], is_wanted: Lambda) -> Value:
        return [item for index, item in enumerate(items) if is_wanted.of_kind(BOOLEAN, index, item, index)]

    return _over(context, call, ARRAY, run)


@lazy("sort", ARRAY, ANY)
def sort(context: FunctionContext, call: FunctionCall) -> Value:
    """Sort stably by a lambda that returns whether its first argument comes first."""

    def run(items: list[Value], is_before: Lambda) -> Value:
        def compare(left: Value, right: Value) -> int:
            if is_before.of_kind(BOOLEAN, 0, left, right):
                return -1
            return 1 if is_before.of_kind(BOOLEAN, 0, right, left) else 0

        return sorted(items, key=cmp_to_key(compare))

    return _over(context, call, ARRAY, run)


@lazy("reduce", ARRAY, ANY, ANY)
def reduce(context: FunctionContext, call: FunctionCall) -> Value:
    """Reduce an array to one value, from an initial one."""

    def run(items: list[Value], first: Value, combine: Lambda) -> Value:
        for index, item in enumerate(items):
            first = combine(first, item, index)
        return first

    return _over(context, call, ARRAY, run)


@lazy("toObject", ARRAY, ANY, optional=(ANY,))
def to_object(context: FunctionContext, call: FunctionCall) -> Value:
    """Convert an array to an object, with a lambda for the keys and optionally one for the values."""

    def run(
        items: list[Value], key_of: Lambda, value_of: Callable[[Value], Value] = lambda item: item
    ) -> Value:
        found: dict[str, Value] = {}
        for index, item in enumerate(items):
            key = key_of.of_kind(STRING, index, item)
            if find_key(found, key) is not None:
                raise function_error(
                    f"The lambda expression parameter at index '{key_of.index}' of function '{call.name}' "
                    f"returned a duplicate key '{key}'. Object keys must be strings that are "
                    "case-insensitively unique."
                )
            found[key] = value_of(item)
        return found

    return _over(context, call, ARRAY, run)


@lazy("groupBy", ARRAY, ANY, optional=(ANY,))
def group_by(context: FunctionContext, call: FunctionCall) -> Value:
    """Group the elements into arrays by a lambda's value."""

    def run(
        items: list[Value], key_of: Lambda, value_of: Callable[[Value], Value] = lambda item: item
    ) -> Value:
        found: dict[str, Value] = {}
        for index, item in enumerate(items):
            key = key_of.of_kind(STRING, index, item)
            found.setdefault(find_key(found, key) or key, []).append(value_of(item))
        return found

    return _over(context, call, ARRAY, run)


@lazy("mapValues", OBJECT, ANY)
def map_values(context: FunctionContext, call: FunctionCall) -> Value:
    """Apply a lambda to each value of an object."""

    def run(document: dict[str, Value], convert: Lambda) -> Value:
        return {key: convert(value) for key, value in document.items()}

    return _over(context, call, OBJECT, run)


def _over(context: FunctionContext, call: FunctionCall, wanted: Kinds, run: Callable[..., Value]) -> Value:
    """Run a call with its collection and its lambdas; leave it unevaluated if a value is not known yet."""
    collection = context.evaluate(call.arguments[0])
    if isinstance(collection, Residual):
        return _later(context, call, collection)
    if kind(collection) not in wanted:
        raise kind_error(call.name, kind(collection), wanted, 0)
    try:
        return run(collection, *(_argument(context, call, index) for index in range(1, len(call.arguments))))
    except NeedsRuntime:
        return _later(context, call, collection)


def _later(context: FunctionContext, call: FunctionCall, collection: Value) -> Residual:
    return Residual(FunctionCall(call.name, (node_of(collection), *map(context.freeze, call.arguments[1:]))))


def _argument(context: FunctionContext, call: FunctionCall, index: int) -> Value:
    """Return an argument as a lambda, or as a value if it is none."""
    node = call.arguments[index]
    if not isinstance(node, FunctionCall) or node.name.lower() != "lambda":
        if call.name.lower() == "reduce" and index == 1:
            return context.evaluate(node)
        raise function_error(
            f"The template language function '{call.name}' expects its {ordinal(index)} parameter to be of "
            "type 'lambda'. The provided value is of type "
            f"'{'Token' if isinstance(node, Literal) else 'Function'}'."
        )
    *names, body = node.arguments
    return Lambda(context, call.name, index, tuple(map(_name, names)), body)


def _name(node: Node) -> str:
    if isinstance(node, Literal) and isinstance(node.value, str):
        return node.value
    raise function_error("The variables of a lambda expression must be string literals.")
