"""Run an evaluation: ask, judge, score and compare; and write the report."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.document import write_atomic
from infra.errors import RemoteError, ToolError
from infra.evaluation.asking import Options, Question, ask_all
from infra.evaluation.judge import Judgement, judge_all
from infra.evaluation.report import write_report
from infra.evaluation.results import make_row, summarize
from infra.evaluation.store import AnswerStore, question_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.console import Console, Step
    from infra.evaluation.asking import Answer, Candidate
    from infra.evaluation.examples import Example
    from infra.evaluation.judge import Judge
    from infra.evaluation.metrics import Metric
    from infra.evaluation.results import Evaluation

DEFAULT_OPTIONS: Final = Options()
RESULTS_FILE: Final = "results.json"
MAX_EQUAL_FAILURES: Final = 8
"""How often the first requests for a model may fail for one and the same reason: the others would, too."""
SHOWN_EVERY_S: Final = {True: 0.2, False: 10.0}
"""How often progress is shown, on a terminal and elsewhere."""


@dataclass(frozen=True, slots=True)
class Work:
    """What to evaluate, and how.

    Attributes:
        data: The name of the examples, for the report.
        examples: The examples.
        candidates: The models; the first is the baseline.
        metrics: How to score the answers.
        folder: The folder for answers and report; answers that it has are used.
        options: The fields of the requests.
        concurrency: The most requests at once.
        judge: A model that scores the answers.
    """

    data: str
    examples: tuple[Example, ...]
    candidates: tuple[Candidate, ...]
    metrics: tuple[Metric, ...]
    folder: Path
    options: Options = DEFAULT_OPTIONS
    concurrency: int = 8
    judge: Judge | None = None


def run(work: Work, console: Console) -> Evaluation:
    """Ask the models, and return the results; `finish` writes them.

    Raises:
        RemoteError: No request for one of the models succeeded.
        ToolError: A package is missing.
    """
    _require_packages()
    with console.step("ask the models") as step:
        answers = asyncio.run(_collect(work, _Progress(step, console.is_terminal), console.warn))
    _require_answers(work, answers)
    judgements = {}
    if work.judge is not None:
        with console.step(f"let {work.judge.model} judge") as step:
            judgements = asyncio.run(_judge(work, answers, _Progress(step, console.is_terminal)))
        _require_judgements(work, tuple(judgements.values()))
    rows = []
    for example in work.examples:
        keys = [(candidate.name, example.name) for candidate in work.candidates]
        judged = [judgements.get(key, Judgement(None, "not judged")) for key in keys] if judgements else []
        rows.append(make_row(example, [answers[key] for key in keys], work.metrics, judged))
    with console.step("compare"):
        return summarize(work.data, work.metrics, work.candidates, rows, work.folder)


def finish(results: Evaluation) -> None:
    """Write the report and the results into their folder."""
    write_atomic(results.report, write_report(results))
    write_atomic(results.folder / RESULTS_FILE, json.dumps(results.to_json(), indent=2) + "\n")


class _Progress:
    """Shows how much is done, and how long the rest may take."""

    def __init__(self, step: Step, is_terminal: bool) -> None:  # noqa: FBT001 - a property of the console
        self._step = step
        self._every_s = SHOWN_EVERY_S[is_terminal]
        self._started_s = self._shown_s = time.monotonic()

    def show(self, done: int, total: int, failures: int = 0) -> None:
        """Show the progress, unless it was shown a moment ago."""
        now_s = time.monotonic()
        if done and now_s - self._shown_s >= self._every_s and done < total:
            self._shown_s = now_s
            rest_s = (now_s - self._started_s) / done * (total - done)
            failed = f", {failures} failed" if failures else ""
            self._step.update(f"{done} of {total}{failed}, {rest_s:.0f} s left")

    def finish(self, outcome: str) -> None:
        """Set the step's outcome."""
        self._step.finish(outcome)


async def _collect(
    work: Work, progress: _Progress, notify: Callable[[str], None]
) -> dict[tuple[str, str], Answer]:
    """Return the answers by candidate and example, from the store where it has them."""
    # The models take turns, so that what changes with time is the same for all.
    questions = [Question(candidate, example) for example in work.examples for candidate in work.candidates]
    with AnswerStore(work.folder) as store:
        pairs = [(question, question_key(question, work.options)) for question in questions]
        answers = {_name(question): answer for question, key in pairs if (answer := store.get(key))}
        kept, failures = len(answers), _Failures(work, {candidate for candidate, _ in answers})
        open_pairs = [(question, key) for question, key in pairs if _name(question) not in answers]
        key_of = {_name(question): key for question, key in open_pairs}
        new = ask_all([question for question, _ in open_pairs], work.options, work.concurrency, notify=notify)
        async with aclosing(new):
            async for question, answer in new:
                name = _name(question)
                answers[name] = answer
                store.add(key_of[name], answer)
                failures.add(question.candidate, answer)
                progress.show(len(answers) - kept, len(open_pairs), failures.count)
    parts = [f"{len(open_pairs)} answers", f"{kept} kept from before" if kept else ""]
    progress.finish(", ".join(filter(None, [*parts, f"{failures.count} failed" if failures.count else ""])))
    return answers


class _Failures:
    """The requests that failed, and whether those for a model can still succeed.

    Args:
        work: What is evaluated.
        answering: The names of the candidates that have answered before.

    Attributes:
        count: The number of requests that failed.
    """

    def __init__(self, work: Work, answering: set[str]) -> None:
        self.count = 0
        self._work = work
        self._answering = answering
        self._reasons: Counter[tuple[str, str]] = Counter()

    def add(self, candidate: Candidate, answer: Answer) -> None:
        """Count an answer.

        Raises:
            RemoteError: All requests for the model so far have failed, often for the same reason.
        """
        if answer.error is None:
            self._answering.add(candidate.name)
            return
        self.count += 1
        key = (candidate.name, answer.error)
        self._reasons[key] += 1
        if candidate.name not in self._answering and self._reasons[key] >= MAX_EQUAL_FAILURES:
            raise _no_answer(self._work, candidate, answer.error)


async def _judge(
    work: Work, answers: dict[tuple[str, str], Answer], progress: _Progress
) -> dict[tuple[str, str], Judgement]:
    assert work.judge is not None  # noqa: S101 - checked by the caller
    examples = {example.name: example for example in work.examples}
    whole = {name: answer for name, answer in answers.items() if answer.error is None}
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.show(done, len(whole))

    pairs = [(examples[example], answer) for (_, example), answer in whole.items()]
    judgements = await judge_all(work.judge, pairs, work.concurrency, advance)
    without = sum(judgement.score is None for judgement in judgements)
    progress.finish(f"{len(judgements)} answers" + (f", {without} without a score" if without else ""))
    return dict(zip(whole, judgements, strict=True))


def _name(question: Question) -> tuple[str, str]:
    return question.candidate.name, question.example.name


def _require_answers(work: Work, answers: dict[tuple[str, str], Answer]) -> None:
    """Check that each model gave at least one answer: a result without any would be about nothing."""
    for candidate in work.candidates:
        errors = [answers[candidate.name, example.name].error for example in work.examples]
        if all(errors):
            raise _no_answer(work, candidate, str(errors[0]))


def _no_answer(work: Work, candidate: Candidate, reason: str) -> RemoteError:
    return RemoteError(
        f"no request for {candidate.model!r} at {candidate.endpoint.url} succeeded",
        details=(reason,),
        hint=f"check the name of the model and the key; --resume {work.folder} asks what is missing",
    )


def _require_judgements(work: Work, judgements: tuple[Judgement, ...]) -> None:
    if work.judge is not None and judgements and all(each.score is None for each in judgements):
        raise RemoteError(
            f"the judge {work.judge.model!r} at {work.judge.endpoint.url} scored no answer",
            details=(judgements[0].reason,),
            hint=f"check its name and the key; --resume {work.folder} asks only the judge again",
        )


def _require_packages() -> None:
    try:
        import openai  # noqa: F401, PLC0415
        import scipy  # noqa: F401, PLC0415
    except ImportError as error:
        raise ToolError(
            f"an evaluation needs the package {error.name}", hint="python3 install.py --extra local"
        ) from error
