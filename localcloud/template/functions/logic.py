"""Conditions and comparisons.

`if`, `and`, `or` and `coalesce` evaluate only the arguments that they need. If an argument is not known
before the deployment runs, the rest of the call stays unevaluated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcloud.template.errors import ExpressionError
from localcloud.template.registry import ANY, BOOLEAN, function, kind_error, lazy
from localcloud.template.syntax import FunctionCall
from localcloud.template.values import Residual, Value, is_equal, kind, node_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from localcloud.template.registry import FunctionContext


@lazy("if", BOOLEAN, ANY, ANY)
def if_(context: FunctionContext, call: FunctionCall) -> Value:
    """Evaluate only the branch that the condition selects."""
    condition = context.evaluate(call.arguments[0])
    if isinstance(condition, Residual):
        return _undecided(context, call, [condition])
    if not isinstance(condition, bool):
        raise ExpressionError(
            "The template language function 'if' expects its first parameter to be of type 'boolean'. The "
            f"provided value is of type '{kind(condition)}'. Please see https://aka.ms/arm-function-if for "
            "usage details."
        )
    return context.evaluate(call.arguments[1 if condition else 2])


@lazy("and", BOOLEAN, BOOLEAN, rest=BOOLEAN)
def and_(context: FunctionContext, call: FunctionCall) -> Value:
    """Return whether all arguments are true; stop at the first that is false."""
    return _until(context, call, decisive=False)


@lazy("or", BOOLEAN, BOOLEAN, rest=BOOLEAN)
def or_(context: FunctionContext, call: FunctionCall) -> Value:
    """Return whether an argument is true; stop at the first that is."""
    return _until(context, call, decisive=True)


@lazy("coalesce", rest=ANY)
def coalesce(context: FunctionContext, call: FunctionCall) -> Value:
    """Return the first argument that is not null."""
    seen: list[Value] = []
    for argument in call.arguments:
        value = context.evaluate(argument)
        seen.append(value)
        if isinstance(value, Residual):
            return _undecided(context, call, seen)
        if value is not None:
            return value
    return None


@function("not", BOOLEAN)
def not_(value: bool) -> bool:  # noqa: FBT001 - the language's own argument
    """Negate a condition."""
    return not value


@function("true")
def true() -> bool:
    """Return true."""
    return True


@function("false")
def false() -> bool:
    """Return false."""
    return False


@function("null")
def null() -> None:
    """Return null."""


@function("equals", ANY, ANY)
def equals(left: Value, right: Value) -> bool:
    """Return whether two values are equal; strings are compared case-sensitively."""
    return is_equal(left, right)


@function("less", ANY, ANY)
def less(left: Value, right: Value) -> bool:
    """Compare two numbers, or two strings by their characters."""
    return _compare("less", left, right, lambda order: order < 0)


@function("lessOrEquals", ANY, ANY)
def less_or_equals(left: Value, right: Value) -> bool:
    """Compare two numbers, or two strings by their characters."""
    return _compare("lessOrEquals", left, right, lambda order: order <= 0)


@function("greater", ANY, ANY)
def greater(left: Value, right: Value) -> bool:
    """Compare two numbers, or two strings by their characters."""
    return _compare("greater", left, right, lambda order: order > 0)


@function("greaterOrEquals", ANY, ANY)
def greater_or_equals(left: Value, right: Value) -> bool:
    """Compare two numbers, or two strings by their characters."""
    return _compare("greaterOrEquals", left, right, lambda order: order >= 0)


@function("bool", ("String", "Integer", "Boolean"))
def bool_(value: str | int) -> bool:
    """Convert a string or a number to a Boolean."""
    if isinstance(value, int):
        return value != 0
    found = {"true": True, "false": False}.get(value.strip().lower())
    if found is None:
        raise ExpressionError(
            "The template language function 'bool' was invoked with a parameter that is not valid. "
            "The value cannot be converted to the target type."
        )
    return found


@function("fail", ("String",))
def fail(message: str) -> Value:
    """Fail the deployment with a message."""
    raise ExpressionError(message)


def _until(context: FunctionContext, call: FunctionCall, *, decisive: bool) -> Value:
    seen: list[Value] = []
    for index, argument in enumerate(call.arguments):
        value = context.evaluate(argument)
        seen.append(value)
        if isinstance(value, Residual):
            return _undecided(context, call, seen)
        if not isinstance(value, bool):
            raise kind_error(call.name, kind(value), BOOLEAN, index)
        if value is decisive:
            return decisive
    return not decisive


def _undecided(context: FunctionContext, call: FunctionCall, seen: Sequence[Value]) -> Residual:
    """Return the call with its evaluated arguments, the last of them unknown, and the rest unevaluated."""
    rest = map(context.freeze, call.arguments[len(seen) :])
    return Residual(FunctionCall(call.name, (*map(node_of, seen), *rest)))


def _compare(name: str, left: Value, right: Value, judge: Callable[[int], bool]) -> bool:
    kinds = (kind(left), kind(right))
    if kinds[0] == "String":
        if kinds[1] != "String":
            raise kind_error(name, kinds[1], ("String",), 1)
        left, right = left.encode("utf-16-be"), right.encode("utf-16-be")
    elif not set(kinds) <= {"Integer", "Float"}:
        raise ExpressionError(
            f"The provided arguments for template language function '{name}' is not valid: all function "
            f"arguments should be of numeric types. Please see https://aka.ms/arm-functions#{name} for usage "
            "details."
        )
    return judge((left > right) - (left < right))
