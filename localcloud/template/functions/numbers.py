"""Arithmetic on 64-bit integers."""

from __future__ import annotations

from itertools import chain
from typing import Final

from localcloud.template.errors import ExpressionError, function_error
from localcloud.template.registry import ANY, INTEGER, function
from localcloud.template.values import Value, kind

_MIN_INTEGER: Final = -(2**63)
_MAX_INTEGER: Final = 2**63 - 1


@function("add", INTEGER, INTEGER)
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return _in_range("add", left, right, left + right)


@function("sub", INTEGER, INTEGER)
def sub(left: int, right: int) -> int:
    """Subtract the second number from the first."""
    return _in_range("sub", left, right, left - right)


@function("mul", INTEGER, INTEGER)
def mul(left: int, right: int) -> int:
    """Multiply two numbers."""
    return _in_range("mul", left, right, left * right)


@function("div", INTEGER, INTEGER)
def div(left: int, right: int) -> int:
    """Divide, rounding towards zero."""
    if right == 0:
        raise function_error("The template language function 'div' tried to divide by zero.")
    quotient = abs(left) // abs(right)
    return _in_range("div", left, right, quotient if (left < 0) == (right < 0) else -quotient)


@function("mod", INTEGER, INTEGER)
def mod(left: int, right: int) -> int:
    """Return the remainder of a division, with the sign of the first number."""
    if right == 0:
        raise function_error("The template language function 'mod' tried to divide by zero.")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


@function("min", ANY, rest=ANY)
def min_(*values: Value) -> int:
    """Return the smallest of numbers or of an array of numbers."""
    return min(_integers("min", values))


@function("max", ANY, rest=ANY)
def max_(*values: Value) -> int:
    """Return the largest of numbers or of an array of numbers."""
    return max(_integers("max", values))


@function("int", ("Integer", "String"))
def int_(value: str | int) -> int:
    """Convert a string to an integer."""
    try:
        return int(value)
    except ValueError:
        raise ExpressionError(
            f"The template language function 'int' cannot convert provided value '{value}' to integer value. "
            "Please see https://aka.ms/arm-function-int for usage details."
        ) from None


@function("float", ("String", "Integer", "Float"))
def float_(value: str | float) -> float:
    """Convert a string or an integer to a floating-point number."""
    try:
        return float(value)
    except ValueError:
        raise ExpressionError(
            f"The template language function 'float' cannot convert provided value '{value}' to "
            "floating-point number value. Please see https://aka.ms/arm-function-float for usage details."
        ) from None


def _in_range(name: str, left: int, right: int, result: int) -> int:
    if _MIN_INTEGER <= result <= _MAX_INTEGER:
        return result
    raise function_error(
        f"The template language function '{name}' overflowed with the operants '{left}' and '{right}'."
    )


def _integers(name: str, values: tuple[Value, ...]) -> list[int]:
    parts = list(chain.from_iterable(value if isinstance(value, list) else [value] for value in values))
    if not parts or any(kind(part) != "Integer" for part in parts):
        raise ExpressionError(
            f"The provided arguments for template language function '{name}' is not valid: all function "
            f"arguments should be of numeric types. Please see https://aka.ms/arm-functions#{name} for usage "
            "details."
        )
    return parts
