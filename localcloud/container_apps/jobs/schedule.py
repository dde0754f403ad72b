"""Schedules in the notation of cron: five fields, in UTC. Pure.

Source: "Jobs in Azure Container Apps", scheduled jobs; crontab(5), for the meaning of two restricted days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

_MONTHS: Final = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS: Final = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# The name, the range and the names of the values of each field.
_FIELDS: Final[tuple[tuple[str, int, int, dict[str, int]], ...]] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
_SUNDAY: Final = 7


@dataclass(frozen=True, slots=True)
class Schedule:
    """The minutes at which a cron expression is due.

    Attributes:
        values: The values of each field at which it is due.
        is_any_day: Whether the day of the month or that of the week is `*`: otherwise one of both suffices.
    """

    values: tuple[frozenset[int], ...]
    is_any_day: bool

    @classmethod
    def parse(cls, expression: str) -> Schedule:
        """Return the schedule of a cron expression.

        Raises:
            ValueError: it is none; the message says why.
        """
        parts = expression.lower().split()
        if len(parts) != len(_FIELDS):
            raise ValueError(f"it has {len(parts)} fields, and must have {len(_FIELDS)}")
        values = tuple(frozenset(_values(part, *field)) for part, field in zip(parts, _FIELDS, strict=True))
        return cls(values, is_any_day=parts[2].startswith("*") or parts[4].startswith("*"))

    def is_due(self, now: datetime) -> bool:
        """Return whether it is due in the minute of a time, which is in UTC."""
        minutes, hours, days, months, weekdays = self.values
        if now.minute not in minutes or now.hour not in hours or now.month not in months:
            return False
        is_day, is_weekday = (
            now.day in days,
            now.isoweekday() % _SUNDAY in {day % _SUNDAY for day in weekdays},
        )
        return (is_day and is_weekday) if self.is_any_day else (is_day or is_weekday)


def _values(text: str, field: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step_text = part.partition("/")
        first, is_range, last = span.partition("-")
        start = low if span == "*" else _number(first, field, low, high, names)
        end = high if span == "*" or (step_text and not is_range) else start
        end = _number(last, field, low, high, names) if is_range else end
        step = _number(step_text, f"step of the {field}", 1, high, {}) if "/" in part else 1
        if end < start:
            raise ValueError(f"the {field} '{part}' ends before it begins")
        found |= set(range(start, end + 1, step))
    return found


def _number(text: str, field: str, low: int, high: int, names: dict[str, int]) -> int:
    number = names.get(text, int(text) if text.isascii() and text.isdigit() else None)
    if number is None or not low <= number <= high:
        raise ValueError(f"the {field} '{text}' is not from {low} to {high}")
    return number
