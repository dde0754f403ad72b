"""The results of an evaluation as values, and as text and JSON. Pure.

A model that gave no answer, because the request failed, has the score 0 for it: leaving it out would
make a model better that fails at what is difficult.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from infra.evaluation.statistics import Comparison, Estimate, compare, estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from infra.evaluation.asking import Answer, Candidate
    from infra.evaluation.examples import Example
    from infra.evaluation.judge import Judgement
    from infra.evaluation.metrics import Metric

JUDGE: Final = "judge"
REPORT_FILE: Final = "report.html"
TEXT_WIDTH: Final = 120
SMALL_P: Final = 0.001

Scores = dict[str, float | None]
"""The scores of one answer, by metric; None where a metric does not apply."""


@dataclass(frozen=True, slots=True)
class Row:
    """An example with the answers of all models, in the order of the models.

    Attributes:
        example: The example.
        answers: The answers.
        scores: Their scores.
        judgements: The reasons that the judge gave for each; empty without a judge.
    """

    example: Example
    answers: tuple[Answer, ...]
    scores: tuple[Scores, ...]
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The median and the 95th percentile of a time, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The results of one model.

    Attributes:
        name: Its name.
        scores: The mean score of each metric.
        failures: The number of requests that failed.
        cut: The number of answers that reached the length limit.
        duration_s: How long answers took; None if there were none.
        time_to_first_token_s: Until their first text; None if there were none.
        prompt_tokens: The tokens of all prompts.
        completion_tokens: The tokens of all answers.
    """

    name: str
    scores: Mapping[str, Estimate]
    failures: int
    cut: int
    duration_s: Percentiles | None
    time_to_first_token_s: Percentiles | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A model compared with the baseline by one metric."""

    model: str
    metric: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        data: The name of the file with the examples.
        metrics: The metrics, the most important one first.
        meanings: What they measure.
        models: The results of each model. The first is the baseline.
        comparisons: The other models compared with the baseline.
        rows: Every example with its answers, the worst first.
        folder: The folder with the answers and the report.
        unmet: The requirements that are not met.
    """

    data: str
    metrics: tuple[str, ...]
    meanings: Mapping[str, str]
    models: tuple[ModelResult, ...]
    comparisons: tuple[ModelComparison, ...]
    rows: tuple[Row, ...]
    folder: Path
    unmet: tuple[str, ...] = ()

    @property
    def report(self) -> Path:
        """Return the path of the report."""
        return self.folder / REPORT_FILE

    @property
    def baseline(self) -> str:
        """Return the name of the model that the others are compared with."""
        return self.models[0].name

    def find_comparison(self, model: str, metric: str) -> Comparison | None:
        """Return a comparison; None for the baseline, or if no example has the metric."""
        found = (each.comparison for each in self.comparisons if (each.model, each.metric) == (model, metric))
        return next(found, None)

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            "data": self.data,
            "examples": len(self.rows),
            "baseline": self.baseline,
            "models": [asdict(model) for model in self.models],
            "comparisons": [
                {"model": each.model, "metric": each.metric, **asdict(each.comparison)}
                for each in self.comparisons
            ],
            "unmet_requirements": list(self.unmet),
            "report": str(self.report),
            "folder": str(self.folder),
        }

    def to_text(self) -> str:
        """Return the tables that people read."""
        output = io.StringIO()
        console = Console(file=output, width=TEXT_WIDTH, color_system=None)
        console.print(f"{len(self.rows)} examples of {self.data}; 95 % confidence intervals in brackets")
        console.print(self._score_table())
        if self.comparisons:
            console.print(f"compared with {self.baseline}, example by example")
            console.print(self._comparison_table())
        console.print(self._speed_table())
        for requirement in self.unmet:
            console.print(f"not met: {requirement}", soft_wrap=True)
        console.print(f"report: {self.report}", soft_wrap=True)
        return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())

    def _score_table(self) -> Table:
        table = _table("metric", *(model.name for model in self.models))
        for metric in self.metrics:
            table.add_row(metric, *(write_estimate(model.scores.get(metric)) for model in self.models))
        return table

    def _comparison_table(self) -> Table:
        table = _table("model", "metric", "difference", "p-value", "better", "worse")
        for each in self.comparisons:
            found = each.comparison
            table.add_row(
                each.model, each.metric, f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]",
                write_p_value(found.p_value), str(found.better), str(found.worse),
            )  # fmt: skip
        return table

    def _speed_table(self) -> Table:
        table = _table(
            "model", "failed", "cut", "first token p50", "p95", "answer p50", "p95", "tokens in", "tokens out"
        )
        for model in self.models:
            table.add_row(
                model.name, str(model.failures), str(model.cut), *write_times(model.time_to_first_token_s),
                *write_times(model.duration_s), f"{model.prompt_tokens:,}", f"{model.completion_tokens:,}",
            )  # fmt: skip
        return table


def make_row(
    example: Example,
    answers: Sequence[Answer],
    metrics: Sequence[Metric],
    judgements: Sequence[Judgement] = (),
) -> Row:
    """Score the answers to an example."""
    scores: list[Scores] = []
    for index, answer in enumerate(answers):
        found = {
            metric.name: 0.0
            if answer.error is not None and example.expected
            else metric.score(example.expected, answer.text)
            for metric in metrics
        }
        if judgements:
            found[JUDGE] = 0.0 if answer.error is not None else judgements[index].score
        scores.append(found)
    return Row(example, tuple(answers), tuple(scores), tuple(judgements))


def summarize(
    data: str, metrics: Sequence[Metric], candidates: Sequence[Candidate], rows: Sequence[Row], folder: Path
) -> Evaluation:
    """Summarise scored rows, at least one. The first candidate is the baseline."""
    meanings = {metric.name: metric.meaning for metric in metrics}
    if any(row.judgements for row in rows):
        meanings = {JUDGE: "the judge's score, 0 to 1"} | meanings
    names = tuple(meanings)
    models = tuple(
        _summarize_model(candidate.name, index, names, rows) for index, candidate in enumerate(candidates)
    )
    comparisons = []
    for index, candidate in enumerate(candidates[1:], start=1):
        for name in names:
            pairs = [(row.scores[0][name], row.scores[index][name]) for row in rows]
            known = [(old, new) for old, new in pairs if old is not None and new is not None]
            if known:
                found = compare([old for old, _ in known], [new for _, new in known])
                comparisons.append(ModelComparison(candidate.name, name, found))
    ordered = tuple(sorted(rows, key=lambda row: _badness(row, names)))
    return Evaluation(data, names, meanings, models, tuple(comparisons), ordered, folder)


def write_estimate(found: Estimate | None) -> str:
    """Return an estimate as text."""
    return "-" if found is None else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def write_p_value(p_value: float) -> str:
    """Return a p-value as text."""
    return "<0.001" if p_value < SMALL_P else f"{p_value:.3f}"


def write_times(times: Percentiles | None) -> tuple[str, str]:
    """Return two times as text."""
    return ("-", "-") if times is None else (f"{times.p50:.2f} s", f"{times.p95:.2f} s")


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of values by their nearest rank; None without values."""
    if not values:
        return None
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Percentiles(rank(0.5), rank(0.95))


def _summarize_model(name: str, index: int, metrics: Sequence[str], rows: Sequence[Row]) -> ModelResult:
    answers = [row.answers[index] for row in rows]
    whole = [answer for answer in answers if answer.error is None]
    known = {
        metric: [score for row in rows if (score := row.scores[index][metric]) is not None]
        for metric in metrics
    }
    return ModelResult(
        name=name,
        scores={metric: estimate(scores) for metric, scores in known.items() if scores},
        failures=len(answers) - len(whole),
        cut=sum(answer.finish_reason == "length" for answer in whole),
        duration_s=percentiles([answer.duration_s for answer in whole]),
        time_to_first_token_s=percentiles(
            [time_s for answer in whole if (time_s := answer.time_to_first_token_s) is not None]
        ),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
    )


def _badness(row: Row, metrics: Sequence[str]) -> tuple[Any, ...]:
    """Return the key that puts the worst example first: by the last model's scores, then its loss.

    The last model is the one of interest: the newest adapter, after its base.
    """
    last, first = row.scores[-1], row.scores[0]
    main = next((name for name in metrics if last[name] is not None), metrics[0])
    known = [score for score in last.values() if score is not None]
    loss = (last[main] or 0.0) - (first[main] or 0.0)
    return (last[main] or 0.0, loss, math.fsum(known) / max(1, len(known)), int(row.example.name))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table
