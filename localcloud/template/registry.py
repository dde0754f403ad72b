"""The table of the language's functions, and the check of their arguments.

A function is declared once, with the types of its arguments; their number and types are checked, with Azure's
error messages, before the function runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypeAlias

from localcloud.errors import not_emulated
from localcloud.template.errors import ExpressionError, function_error
from localcloud.template.values import Value, kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from localcloud.template.bindings import Bindings, Section
    from localcloud.template.model import Scope
    from localcloud.template.syntax import FunctionCall, Node

Kinds: TypeAlias = tuple[str, ...]
P = ParamSpec("P")

ANY: Final[Kinds] = ()
ARRAY: Final[Kinds] = ("Array",)
BOOLEAN: Final[Kinds] = ("Boolean",)
INTEGER: Final[Kinds] = ("Integer",)
OBJECT: Final[Kinds] = ("Object",)
STRING: Final[Kinds] = ("String",)

MIN_32_BITS: Final = -(2**31)
MAX_32_BITS: Final = 2**31 - 1

_ORDINALS: Final = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
)
_COUNTS: Final = {1: "one parameter", 2: "two parameter"}  # Azure's spelling


@dataclass(frozen=True, slots=True)
class Signature:
    """The number and types of a function's arguments; with `rest`, any number more of that type."""

    required: tuple[Kinds, ...]
    optional: tuple[Kinds, ...] = ()
    rest: Kinds | None = None

    def check_count(self, name: str, count: int) -> None:
        """Raise `ExpressionError` if there are too few or too many arguments."""
        least = len(self.required)
        if self.rest is not None:
            if count < least:
                raise function_error(
                    f"Unable to evaluate template language function '{name}'. "
                    f"At least {_COUNTS.get(least, f'{least} parameters')} should be provided."
                )
            return
        most = least + len(self.optional)
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            message = f"function requires {wanted} argument(s) while {count} were provided"
            raise _count_error(name, message)

    def check_kinds(self, name: str, arguments: Sequence[Value]) -> None:
        """Raise `ExpressionError` if an argument has the wrong type, `NeedsRuntime` if it has none yet."""
        declared = self.required + self.optional
        for index, argument in enumerate(arguments):
            wanted = declared[index] if index < len(declared) else self.rest or ANY
            found = kind(argument)
            if wanted and found not in wanted:
                is_only = len(declared) == 1 and len(wanted) == 1 and not self.rest
                raise kind_error(name, found, wanted, None if is_only else index)


def require_32_bits(*numbers: int) -> None:
    """Raise `ExpressionError` for a number outside the range of Azure's 32-bit integers.

    Integers have 64 bits in the language; the functions that count elements take fewer.
    """
    for number in numbers:
        if not MIN_32_BITS <= number <= MAX_32_BITS:
            raise ExpressionError(
                f"The value '{number}' cannot be used as a number because it is either too large or too "
                f"small. The value must be between {MIN_32_BITS} and {MAX_32_BITS}."
            )


class FunctionContext(Protocol):
    """What a function may use of the evaluator that calls it."""

    @property
    def bindings(self) -> Bindings:
        """What names refer to."""

    @property
    def section(self) -> Section:
        """The section of the template that the call is in."""

    @property
    def scope(self) -> Scope:
        """Where the template is deployed."""

    @property
    def copies(self) -> Mapping[str, int]:
        """The index of each loop around the call, by the loop's name."""

    @property
    def innermost(self) -> str | None:
        """The name of the innermost loop."""

    @property
    def lambdas(self) -> Mapping[str, Value]:
        """The variables of the lambdas around the call."""

    def with_lambda(self, variables: Mapping[str, Value]) -> FunctionContext:
        """Return the context inside a lambda's body."""

    def evaluate(self, node: Node) -> Value:
        """Evaluate an expression as far as possible."""

    def freeze(self, node: Node) -> Node:
        """Replace the loop indices of an expression that will be evaluated later, outside of the loops."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the language.

    Exactly one of the two is set: `call` gets evaluated arguments; `lazy` gets the call itself, and decides
    which arguments to evaluate.
    """

    name: str
    signature: Signature
    call: Callable[[FunctionContext, tuple[Value, ...]], Value] | None = None
    lazy: Callable[[FunctionContext, FunctionCall], Value] | None = None


FUNCTIONS: Final[dict[str, Function]] = {}
# A resource provider may have any list action; a template calls it by a function with the action's name.
LIST: Final = "list"
# Functions of Azure's engine that the local cloud does not have.
_NOT_EMULATED: Final = frozenset({
    "distinct", "getroleassignmentname", "like", "pickzones", "providers", "tologicalzone", "tologicalzones",
    "tophysicalzone", "tophysicalzones",
})  # fmt: skip


def find_function(name: str) -> Function | None:
    """Return a function by its name, ignoring case.

    Raises:
        AzureError: 501 for a function that Azure has and the local cloud does not.
    """
    key = name.lower()
    if key in _NOT_EMULATED:
        raise not_emulated(f"the template function '{name}'")
    return FUNCTIONS.get(LIST if key.startswith(LIST) else key)


def function(
    name: str, *required: Kinds, optional: tuple[Kinds, ...] = (), rest: Kinds | None = None
) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Declare a function that depends only on its arguments."""
    signature = Signature(required, optional, rest)

    def declare(body: Callable[..., Value]) -> Callable[..., Value]:
        def call(_context: FunctionContext, arguments: tuple[Value, ...]) -> Value:
            return body(*arguments)

        FUNCTIONS[name.lower()] = Function(name, signature, call=call)
        return body

    return declare


def scoped(
    name: str, *required: Kinds, optional: tuple[Kinds, ...] = (), rest: Kinds | None = None
) -> Callable[
    [Callable[Concatenate[FunctionContext, P], Value]], Callable[Concatenate[FunctionContext, P], Value]
]:
    """Declare a function that also uses the context, such as the resource group."""
    signature = Signature(required, optional, rest)

    def declare(
        body: Callable[Concatenate[FunctionContext, P], Value],
    ) -> Callable[Concatenate[FunctionContext, P], Value]:
        def call(context: FunctionContext, arguments: tuple[Value, ...]) -> Value:
            return body(context, *arguments)  # type: ignore[call-arg] # the signature has checked them

        FUNCTIONS[name.lower()] = Function(name, signature, call=call)
        return body

    return declare


def lazy(
    name: str, *required: Kinds, optional: tuple[Kinds, ...] = (), rest: Kinds | None = None
) -> Callable[
    [Callable[[FunctionContext, FunctionCall], Value]], Callable[[FunctionContext, FunctionCall], Value]
]:
    """Declare a function that evaluates its arguments itself."""
    signature = Signature(required, optional, rest)

    def declare(
        body: Callable[[FunctionContext, FunctionCall], Value],
    ) -> Callable[[FunctionContext, FunctionCall], Value]:
        FUNCTIONS[name.lower()] = Function(name, signature, lazy=body)
        return body

    return declare


def kind_error(name: str, found: str, wanted: Kinds, index: int | None) -> Exception:
    """Return Azure's error for the argument at `index`, from 0; None if there is only one."""
    which = "parameter" if index is None else f"{ordinal(index)} parameter"
    types = (
        f"of type '{wanted[0]}'" if len(wanted) == 1 else f"one of the following types '{', '.join(wanted)}'"
    )
    return function_error(
        f"The template language function '{name}' expects its {which} to be {types}. "
        f"The provided value is of type '{found}'."
    )


def ordinal(index: int) -> str:
    """Return the ordinal for a position that counts from 0."""
    return _ORDINALS[index] if index < len(_ORDINALS) else f"{index + 1}th"


def _count_error(name: str, message: str) -> Exception:
    return ExpressionError(
        f"Unable to evaluate template language function '{name}': {message}. "
        f"Please see https://aka.ms/arm-resource-functions/#{name} for usage details."
    )
