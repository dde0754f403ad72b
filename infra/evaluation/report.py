"""Write an evaluation as one HTML file, which needs nothing else: styles, script and plots are in it.

The answers of models are text from outside: Jinja escapes all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra.evaluation.results import write_estimate, write_p_value, write_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.evaluation.results import Evaluation, Row

TEMPLATE: Final = "report.html.jinja"
ROW_HEIGHT: Final = 26
GAP: Final = 14


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with a confidence interval. All numbers are shares of the width of the plot, 0 to 1.

    Attributes:
        label: What it is about.
        value: Its value, as text.
        model: The index of the model, which decides the colour.
        at: Where it ends.
        low: The lower end of the interval.
        high: Its upper end.
    """

    label: str
    value: str
    model: int
    at: float
    low: float
    high: float


def write_report(evaluation: Evaluation, now: datetime | None = None) -> str:
    """Return the HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"pretty": _pretty, "estimate": write_estimate, "p_value": write_p_value}
    return environment.get_template(TEMPLATE).render(
        evaluation=evaluation,
        created=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        score_plots=[(metric, _score_bars(evaluation, metric)) for metric in evaluation.metrics],
        differences=[
            (metric, bars) for metric in evaluation.metrics if (bars := _difference_bars(evaluation, metric))
        ],
        times=_time_bars(evaluation),
        rows=[_row_view(evaluation, row) for row in evaluation.rows],
        write_times=write_times,
        row_height=ROW_HEIGHT,
        gap=GAP,
    )


def _score_bars(evaluation: Evaluation, metric: str) -> list[Bar]:
    found = [(index, model, model.scores.get(metric)) for index, model in enumerate(evaluation.models)]
    return [
        Bar(model.name, write_estimate(score), index, score.mean, score.low, score.high)
        for index, model, score in found
        if score is not None
    ]


def _difference_bars(evaluation: Evaluation, metric: str) -> list[Bar]:
    """Return the differences, with -1 at the left and +1 at the right."""
    bars = []
    for index, model in enumerate(evaluation.models[1:], start=1):
        found = evaluation.find_comparison(model.name, metric)
        if found is not None:
            value = f"{found.difference:+.3f}, p {_equation(write_p_value(found.p_value))}"
            ends = [(1 + each) / 2 for each in (found.difference, found.low, found.high)]
            bars.append(Bar(model.name, value, index, *ends))
    return bars


def _equation(p_value: str) -> str:
    return p_value if p_value.startswith("<") else f"= {p_value}"


def _time_bars(evaluation: Evaluation) -> list[tuple[str, list[Bar]]]:
    """Return the times: a bar ends at the median, and its line at the 95th percentile."""
    plots = []
    for title, name in (("first token", "time_to_first_token_s"), ("whole answer", "duration_s")):
        known = [
            (index, model.name, times)
            for index, model in enumerate(evaluation.models)
            if (times := getattr(model, name)) is not None
        ]
        longest_s = max((times.p95 for _, _, times in known), default=0.0) or 1.0
        bars = [
            Bar(
                label, f"{times.p50:.2f} s, 95 % within {times.p95:.2f} s", index, times.p50 / longest_s,
                times.p50 / longest_s, times.p95 / longest_s,
            )
            for index, label, times in known
        ]  # fmt: skip
        plots.append((title, bars))
    return plots


def _row_view(evaluation: Evaluation, row: Row) -> dict[str, Any]:
    """Return what the template shows of an example."""
    main = next((name for name in evaluation.metrics if row.scores[-1][name] is not None), None)
    first, last = (row.scores[index][main] if main else None for index in (0, -1))
    tags = [
        "wrong" if (last or 0.0) < 1.0 else "right",
        *(["regression"] if (last or 0.0) < (first or 0.0) else []),
        *(["improvement"] if (last or 0.0) > (first or 0.0) else []),
        *(["failed"] if any(answer.error is not None for answer in row.answers) else []),
    ]
    judgements: Sequence[Any] = row.judgements or [None] * len(row.answers)
    return {
        "example": row.example,
        "tags": tags,
        "answers": [
            (index, evaluation.models[index].name, answer, scores, judgement)
            for index, (answer, scores, judgement) in enumerate(
                zip(row.answers, row.scores, judgements, strict=True)
            )
        ],
    }


def _pretty(content: object) -> str:
    """Return a message's content as text."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2)
