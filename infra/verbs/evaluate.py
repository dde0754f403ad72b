"""Evaluate models of a stage, or of any OpenAI-compatible endpoint, on a file of examples."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.errors import UsageError
from infra.evaluation.asking import MAX_LISTED, Candidate, Endpoint, Options, list_models
from infra.evaluation.evaluation import Work, finish, run
from infra.evaluation.examples import Columns, read_examples
from infra.evaluation.judge import INSTRUCTIONS, Judge
from infra.evaluation.metrics import choose_metrics
from infra.evaluation.requirements import find_unmet, parse_minimums, require_metrics
from infra.evaluation.results import JUDGE
from infra.evaluation.store import ANSWERS_FILE
from infra.resources.model_endpoint import KEY_VARIABLE, find_endpoint, normalize_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.console import Console
    from infra.evaluation.results import Evaluation
    from infra.session import Session

FOLDER: Final = Path(".fjarr", "evaluations")


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        data: The file with the examples.
        models: The models, as NAME or NAME@URL, the baseline first. Empty: all that the endpoint lists.
        endpoint: The address of the server; None is the stage's.
        key_variable: The environment variable with the key of addresses that are given.
        columns: The names of the fields of the file.
        limit: The first examples only.
        pattern: A regular expression for answers.
        tolerance: The relative tolerance for numbers.
        judge: A model that scores the answers, as NAME or NAME@URL.
        judge_prompt: A file with the judge's instructions.
        options: The fields of the requests.
        concurrency: The most requests at once.
        folder: The folder for the results; None is a new one.
        is_resumed: Whether the folder has answers already.
        minimums: The least scores, as METRIC=NUMBER.
        not_worse: Whether no model may be worse than the baseline.
    """

    data: Path
    models: tuple[str, ...] = ()
    endpoint: str | None = None
    key_variable: str = KEY_VARIABLE
    columns: Columns = field(default_factory=Columns)
    limit: int | None = None
    pattern: str | None = None
    tolerance: float | None = None
    judge: str | None = None
    judge_prompt: Path | None = None
    options: Options = field(default_factory=Options)
    concurrency: int = 8
    folder: Path | None = None
    is_resumed: bool = False
    minimums: tuple[str, ...] = ()
    not_worse: bool = False

    @property
    def needs_stage(self) -> bool:
        """Return whether a model or the judge is at the stage's endpoint."""
        names = (*self.models, *([self.judge] if self.judge is not None else []))
        return self.endpoint is None and not (self.models and all("@http" in name for name in names))


def evaluate(
    request: EvaluationRequest,
    root: Path,
    console: Console,
    session: Session | None,
    environment: Mapping[str, str] = os.environ,
) -> Evaluation:
    """Evaluate, and write the report.

    Args:
        request: What to evaluate.
        root: The project's folder, in which the results are kept.
        console: Shows progress.
        session: The stage, if the request needs it.
        environment: The environment variables.

    Raises:
        UsageError: The file, a flag or the stage cannot be used.
        RemoteError: The endpoint does not answer.
        ToolError: A package is missing.
    """
    _check(request)
    minimums = parse_minimums(request.minimums)
    examples = read_examples(request.data, request.columns, request.limit)
    has_judge = request.judge is not None
    metrics = choose_metrics(
        examples, pattern=request.pattern, tolerance=request.tolerance, has_judge=has_judge
    )
    names = [*([JUDGE] if has_judge else []), *(metric.name for metric in metrics)]
    require_metrics(minimums, names, str(request.data))
    key = environment.get(request.key_variable, "")
    endpoint = find_endpoint(request.endpoint, session, key)
    work = Work(
        request.data.name, examples, _find_candidates(request, endpoint, key), metrics,
        request.folder or root / FOLDER / f"{request.data.stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}",
        request.options, request.concurrency, _find_judge(request, endpoint, key),
    )  # fmt: skip
    try:
        results = run(work, console)
    except KeyboardInterrupt:
        console.info(f"the answers so far are kept; --resume {work.folder} goes on from there")
        raise
    judged = results.models[1:] or results.models
    unmet = (find_unmet(results, model.name, minimums, not_worse=request.not_worse) for model in judged)
    results = replace(results, unmet=tuple(sentence for found in unmet for sentence in found))
    finish(results)
    return results


def _check(request: EvaluationRequest) -> None:
    numbers = (
        ("--concurrency", request.concurrency, 1),
        ("--max-tokens", request.options.max_tokens, 1),
        ("--limit", request.limit or 1, 1),
        ("--tolerance", request.tolerance or 0, 0),
        ("--temperature", request.options.temperature, 0),
    )
    for flag, number, least in numbers:
        if number < least:
            raise UsageError(f"{flag} is at least {least}")
    if request.is_resumed and not (request.folder and (request.folder / ANSWERS_FILE).is_file()):
        raise UsageError(
            f"--resume {request.folder} has no answers of an evaluation",
            hint=f"name the folder in {FOLDER} that has its {ANSWERS_FILE}",
        )


def _find_candidates(
    request: EvaluationRequest, endpoint: Endpoint | None, key: str
) -> tuple[Candidate, ...]:
    names = request.models
    if not names:
        if endpoint is None:
            raise UsageError("no model is named", hint="--model NAME, once for each")
        names = asyncio.run(list_models(endpoint))
        if not 0 < len(names) <= MAX_LISTED:
            raise UsageError(
                f"{endpoint.url} lists {len(names)} models; name those to evaluate, the baseline first",
                details=names[:20],
                hint="--model NAME, once for each",
            )
    if len(set(names)) < len(names):
        raise UsageError("a model is named twice")
    return tuple(Candidate(name, *_find_model(name, endpoint, key)) for name in names)


def _find_model(text: str, endpoint: Endpoint | None, key: str) -> tuple[str, Endpoint]:
    """Split NAME@URL; a model without an address is at the endpoint."""
    name, found, url = text.rpartition("@http")
    if found:
        return name, Endpoint(normalize_url("http" + url), key)
    if endpoint is None:
        raise UsageError(f"where is the model {text!r}?", hint=f"--endpoint URL, or --model {text}@URL")
    return text, endpoint


def _find_judge(request: EvaluationRequest, endpoint: Endpoint | None, key: str) -> Judge | None:
    if request.judge is None:
        return None
    instructions = INSTRUCTIONS
    if request.judge_prompt is not None:
        try:
            instructions = request.judge_prompt.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{request.judge_prompt} cannot be read: {error}") from error
    return Judge(*_find_model(request.judge, endpoint, key), instructions)
