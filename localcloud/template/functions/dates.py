"""Dates and times. The current time is the deployment's, from `Scope.now`."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from localcloud.errors import not_emulated
from localcloud.template.bindings import Section
from localcloud.template.errors import ExpressionError, misplaced
from localcloud.template.functions.dotnet import format_time
from localcloud.template.registry import INTEGER, STRING, function, scoped

if TYPE_CHECKING:
    from localcloud.template.registry import FunctionContext

_BASIC: Final = "yyyyMMdd'T'HHmmss'Z'"
_SECONDS: Final = "yyyy-MM-dd'T'HH:mm:ss'Z'"
_FORMATS_PAGE: Final = "https://aka.ms/arn-template#functions"  # Azure's spelling
_DURATION: Final = re.compile(
    r"(?P<sign>-?)P(?=.)(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?\Z"
)
_DAYS_A_MONTH: Final = 30
_DAYS_A_YEAR: Final = 365
_ONLY_DEFAULTS: Final = (
    " The function can only be used with parameter default value expresions."  # Azure's spelling
)
_GUID_NAMESPACE: Final = uuid.UUID("5f1c2f0e-3a55-5a0f-9a52-7f5b8f0b7a11")


@function("dateTimeAdd", STRING, STRING, optional=(STRING,))
def date_time_add(base: str, duration: str, pattern: str | None = None) -> str:
    """Add an ISO 8601 duration; a month is 30 days and a year 365, as in .NET."""
    moment = _parse_time("dateTimeAdd", base)
    return _format("dateTimeAdd", moment + _parse_duration(duration), pattern or _SECONDS)


@function("dateTimeToEpoch", STRING)
def date_time_to_epoch(text: str) -> int:
    """Return the seconds since 1970."""
    return int(_parse_time("dateTimeToEpoch", text).timestamp())


@function("dateTimeFromEpoch", INTEGER)
def date_time_from_epoch(seconds: int) -> str:
    """Return the time for a number of seconds since 1970."""
    return format_time(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds), _SECONDS)


@scoped("utcNow", optional=(STRING,))
def utc_now(context: FunctionContext, pattern: str = _BASIC) -> str:
    """Return the time of the deployment; only in a parameter's default value."""
    return _format("utcNow", _now(context, "utcNow").astimezone(UTC), pattern)


@scoped("newGuid")
def new_guid(context: FunctionContext) -> str:
    """Return a GUID that differs in every deployment; only in a parameter's default value."""
    moment = _now(context, "newGuid")
    scope = context.scope
    return str(uuid.uuid5(_GUID_NAMESPACE, f"{scope.group_id}/{scope.deployment_name}/{moment.isoformat()}"))


def _now(context: FunctionContext, name: str) -> datetime:
    if context.section is not Section.PARAMETER:
        raise misplaced(name, _ONLY_DEFAULTS)
    if context.scope.now is None:
        raise not_emulated(f"the template function '{name}' without a clock")
    return context.scope.now


def _parse_time(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ExpressionError(
            f"The template function '{name}' has an invalid parameter. The first parameter '{text}' is not a "
            "valid ISO8601 DateTime string. Please see https://aka.ms/arm-syntax-functions ."
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _parse_duration(text: str) -> timedelta:
    match = _DURATION.match(text)
    if match is None:
        raise ExpressionError(
            f"The template function 'dateTimeAdd' has an invalid parameter. The second parameter '{text}' is "
            "not a valid ISO8601 Duration string. Please see https://aka.ms/arm-syntax-functions ."
        )
    part = {name: float(value or 0) for name, value in match.groupdict().items() if name != "sign"}
    days = part["years"] * _DAYS_A_YEAR + part["months"] * _DAYS_A_MONTH + part["days"]
    found = timedelta(days=days, hours=part["hours"], minutes=part["minutes"], seconds=part["seconds"])
    return -found if match.group("sign") else found


def _format(name: str, moment: datetime, pattern: str) -> str:
    try:
        return format_time(moment, pattern)
    except ValueError:
        raise ExpressionError(
            f"The template function '{name}' has an invalid parameter. The third parameter '{pattern}' is "
            f"not a valid DateTime format string. Please see {_FORMATS_PAGE} ."
        ) from None
