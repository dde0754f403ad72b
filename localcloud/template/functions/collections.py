"""Arrays and objects, and functions that also take strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.template.errors import ExpressionError, function_error
from localcloud.template.evaluator import access
from localcloud.template.registry import (
    ANY,
    ARRAY,
    INTEGER,
    MAX_32_BITS,
    OBJECT,
    function,
    kind_error,
    lazy,
    ordinal,
    require_32_bits,
)
from localcloud.template.syntax import FunctionCall
from localcloud.template.values import (
    Residual,
    Value,
    find_key,
    is_equal,
    json_text,
    kind,
    node_of,
    require_known,
    utf16_length,
    utf16_slice,
)

if TYPE_CHECKING:
    from localcloud.template.registry import FunctionContext

_MAX_RANGE_COUNT: Final = 10_000


@lazy("createArray", rest=ANY)
def create_array(context: FunctionContext, call: FunctionCall) -> Value:
    """Return an array of the arguments; some may not be known yet."""
    return [context.evaluate(argument) for argument in call.arguments]


@lazy("createObject", rest=ANY)
def create_object(context: FunctionContext, call: FunctionCall) -> Value:
    """Return an object from alternating keys and values; keys must be known."""
    if len(call.arguments) % 2:
        raise function_error(
            "The template language function 'createObject' expects an even number of parameters. "
            f"The number of provided parameters was '{len(call.arguments)}'."
        )
    values = [context.evaluate(argument) for argument in call.arguments]
    if any(isinstance(key, Residual) for key in values[::2]):
        return Residual(FunctionCall(call.name, tuple(map(node_of, values))))
    wrong = [
        (index, kind(key)) for index, key in enumerate(values) if index % 2 == 0 and kind(key) != "String"
    ]
    if wrong:
        raise function_error(
            "The template language function 'createObject' expects the parameters at an odd-numbered "
            "position to be of type 'string'. The specified parameters at positions "
            f"'{', '.join(str(at + 1) for at, _ in wrong)}' are of types "
            f"'{', '.join(found for _, found in wrong)}', respectively."
        )
    return dict(zip(values[::2], values[1::2], strict=True))


@lazy("array", ANY)
def array(context: FunctionContext, call: FunctionCall) -> Value:
    """Return an array unchanged, anything else as an array of one element."""
    value = context.evaluate(call.arguments[0])
    if isinstance(value, Residual):
        return Residual(FunctionCall(call.name, (value.node,)))
    return value if isinstance(value, list) else [value]


@function("concat", rest=ANY)
def concat(*values: Value) -> Value:
    """Concatenate arrays, or anything else as strings."""
    if values and all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    if any(kind(value) in ("Array", "Object", "Null") for value in values):
        raise ExpressionError(
            "The provided parameters for language function 'concat' are invalid. Either all or none of the "
            "parameters must be an array. Please see https://aka.ms/arm-function-concat for usage details."
        )
    return "".join(map(_text_of, values))


@function("contains", ANY, ANY)
def contains(container: Value, wanted: Value) -> bool:
    """Return whether a string contains a string, an array an element, or an object a key (ignoring case)."""
    match container, wanted:
        case str(), str():
            return wanted in container
        case list(), _:
            return any(is_equal(item, wanted) for item in container)
        case dict(), str():
            return find_key(container, wanted) is not None
    raise ExpressionError(
        "The template function 'contains' expects parameters of matching types: a dictionary and a key "
        "(string), an array and a value (object), or a string and a substring. The provided types "
        f"'{kind(container)}' and '{kind(wanted)}' are incompatible. Please see "
        "https://aka.ms/arm-function-contains for usage details."
    )


@function("empty", ANY)
def empty(value: Value) -> bool:
    """Return whether a string, an array or an object is empty; null is empty."""
    if value is None or isinstance(value, str | list | dict):
        return not value
    raise ExpressionError(
        "The template function 'empty' expects its parameter to be an object, an array, or a string. "
        f"The provided value is of type '{kind(value)}'. "
        "Please see https://aka.ms/arm-function-empty for usage details."
    )


@function("length", ANY)
def length(value: Value) -> int:
    """Return the number of elements, keys, or UTF-16 units."""
    if isinstance(value, str):
        return utf16_length(value)
    if isinstance(value, list | dict):
        return len(value)
    raise ExpressionError(
        "The template language function 'length' expects its parameter to be an array, object, or a string. "
        f"The provided value is of type '{kind(value)}'. "
        "Please see https://aka.ms/arm-function-length for usage details."
    )


@function("first", ANY)
def first(value: Value) -> Value:
    """Return the first element or null; of a string the first character or an empty string."""
    if isinstance(value, str):
        return utf16_slice(value, 0, 1)
    return _end_of("first", value, 0)


@function("last", ANY)
def last(value: Value) -> Value:
    """Return the last element or null; of a string the last character or an empty string."""
    if isinstance(value, str):
        size = utf16_length(value)
        return utf16_slice(value, max(size - 1, 0), size)
    return _end_of("last", value, -1)


@function("take", ("Array", "String"), INTEGER)
def take(value: str | list[Value], count: int) -> Value:
    """Return the first `count` elements or characters."""
    require_32_bits(count)
    count = max(count, 0)
    return utf16_slice(value, 0, min(count, utf16_length(value))) if isinstance(value, str) else value[:count]


@function("skip", ("Array", "String"), INTEGER)
def skip(value: str | list[Value], count: int) -> Value:
    """Return all but the first `count` elements or characters."""
    require_32_bits(count)
    count = max(count, 0)
    if isinstance(value, str):
        size = utf16_length(value)
        return utf16_slice(value, min(count, size), size)
    return value[count:]


@function("range", INTEGER, INTEGER)
def range_(start: int, count: int) -> list[int]:
    """Return `count` integers from `start` on."""
    if not 0 <= count <= _MAX_RANGE_COUNT or start + count - 1 > MAX_32_BITS:
        raise ExpressionError(
            "The template language function 'range' parameters are out of range: 'count' must be a positive "
            "integer no larger than 1000 and the sum of 'start index' and 'count' must be no larger than "
            "2147483647. Please see https://aka.ms/arm-function-range for usage details."
        )
    require_32_bits(start)
    return list(range(start, start + count))


@function("flatten", ARRAY)
def flatten(arrays: list[Value]) -> list[Value]:
    """Concatenate the arrays in an array."""
    wrong = [index for index, item in enumerate(arrays) if kind(item) != "Array"]
    if wrong:
        kinds = ", ".join(sorted({f"'{kind(arrays[index])}'" for index in wrong}))
        raise function_error(
            "The template language function 'flatten' expects its first parameter to be an array only "
            "containing elements of type(s) 'Array'. The provided value contains elements with disallowed "
            f"type(s) {kinds} in index(es) {', '.join(map(str, wrong))}."
        )
    return [item for part in arrays for item in part]


@function("union", ANY, ANY, rest=ANY)
def union(*values: Value) -> Value:
    """Merge arrays, without duplicates, or objects.

    The last value of a key wins; objects under the same key are merged recursively.
    """
    first_kind = _collection_kind("union", values)
    if first_kind == "Array":
        return _distinct([item for value in values for item in value])
    found: dict[str, Value] = {}
    for value in values:
        found = _merged(found, value)
    return found


@function("intersection", ANY, ANY, rest=ANY)
def intersection(*values: Value) -> Value:
    """Return the elements that all arrays contain, or the pairs that all objects contain."""
    if _collection_kind("intersection", values) == "Array":
        return _distinct([item for item in values[0] if all(contains(other, item) for other in values[1:])])
    return {
        key: value
        for key, value in values[0].items()
        if all(
            (name := find_key(other, key)) is not None and is_equal(other[name], value)
            for other in values[1:]
        )
    }


@function("items", OBJECT)
def items(document: dict[str, Value]) -> list[Value]:
    """Return an object's pairs as ``{"key": ..., "value": ...}``, sorted by key, ignoring case."""
    return [{"key": key, "value": document[key]} for key in _sorted_keys(document)]


@function("objectKeys", OBJECT)
def object_keys(document: dict[str, Value]) -> list[str]:
    """Return an object's keys, sorted, ignoring case."""
    return _sorted_keys(document)


@function("shallowMerge", ARRAY)
def shallow_merge(documents: list[Value]) -> Value:
    """Merge the objects of an array; the last value of a key wins."""
    found: dict[str, Value] = {}
    for document in documents:
        if kind(document) != "Object":
            raise kind_error("shallowMerge", kind(document), OBJECT, None)
        for key, value in document.items():
            found[find_key(found, key) or key] = value
    return found


@function("tryGet", ANY, rest=("String", "Integer"))
def try_get(value: Value, *keys: str | int) -> Value:
    """Follow keys and positions; null if the first of them does not exist."""
    found = _element_or_none(value, keys[0]) if keys else value
    for key in keys[1:]:
        if found is None:
            return None
        found = access(found, key)
    return found


@function("indexFromEnd", ARRAY, INTEGER)
def index_from_end(values: list[Value], position: int) -> Value:
    """Return an element counted from the end, from 1."""
    require_32_bits(position)
    if not 1 <= position <= len(values):
        raise ExpressionError(
            "Unable to evaluate the template language function 'indexFromEnd'. The index parameter cannot "
            f"be larger than the length of the array. The index parameter was '{position}', and the length "
            f"of the array parameter was '{len(values)}'."
        )
    return values[-position]


@function("tryIndexFromEnd", ANY, INTEGER)
def try_index_from_end(values: Value, position: int) -> Value:
    """Return an element counted from the end, from 1; null if it does not exist."""
    require_32_bits(position)
    is_there = isinstance(values, list) and 1 <= position <= len(values)
    return values[-position] if is_there else None


def _element_or_none(value: Value, key: str | int) -> Value:
    match value, key:
        case dict(), str():
            name = find_key(value, key)
            return None if name is None else value[name]
        case list(), int():
            return value[key] if 0 <= key < len(value) else None
    return None


def _sorted_keys(document: dict[str, Value]) -> list[str]:
    return sorted(document, key=str.upper)


def _distinct(values: list[Value]) -> list[Value]:
    found: list[Value] = []
    for value in values:
        require_known(value)
        if not any(is_equal(value, other) for other in found):
            found.append(value)
    return found


def _merged(left: dict[str, Value], right: dict[str, Value]) -> dict[str, Value]:
    found = dict(left)
    for key, value in right.items():
        name = find_key(found, key)
        if name is None:
            found[key] = value
        elif value is not None:
            found[key] = _joined(found.pop(name), value)
    return found


def _joined(old: Value, new: Value) -> Value:
    """Merge two values of the same key: objects recursively; otherwise the new value wins."""
    if isinstance(old, dict) and isinstance(new, dict):
        return _merged(old, new)
    is_open = isinstance(old, Residual) or isinstance(new, Residual)
    if not is_open and old is not None and isinstance(old, dict) != isinstance(new, dict):
        raise ExpressionError(
            "The template language function 'union' failed to evaluate due to a type mismatch between "
            f"'{kind(old)}' and '{kind(new)}'. Please see https://aka.ms/arm-function-union for usage "
            "details."
        )
    return new


def _collection_kind(name: str, values: tuple[Value, ...]) -> str:
    found = [kind(value) for value in values]
    for index, each in enumerate(found):
        if each not in ("Array", "Object") or each != found[0]:
            wanted = "Array, Object" if index == 0 else found[0]
            raise function_error(
                f"The template language function '{name}' expects its {ordinal(index)} parameter to be of "
                f"type '{wanted}'. The provided value is of type '{each}'."
            )
    return found[0]


def _end_of(name: str, value: Value, index: int) -> Value:
    if isinstance(value, list):
        return value[index] if value else None
    raise ExpressionError(
        f"The template language function '{name}' expects its parameter be an array or a string. "
        f"The provided value is of type '{kind(value)}'. "
        f"Please see https://aka.ms/arm-function-{name} for usage details."
    )


def _text_of(value: Value) -> str:
    return json_text(value) if isinstance(value, float) else str(value)
