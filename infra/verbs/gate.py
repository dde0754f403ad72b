"""Push an adapter only if it passes an evaluation beside the live one.

The new version is served beside what is live first, as NAME@NUMBER. Both are asked the same examples. If the
new one passes, it becomes the current version; else it is removed again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from infra.deploy_context import open_deploy_context
from infra.errors import RemoteError, UsageError
from infra.evaluation.asking import Candidate, Endpoint, Options, list_models
from infra.evaluation.evaluation import Work, finish, run
from infra.evaluation.examples import Columns, read_examples
from infra.evaluation.metrics import choose_metrics
from infra.evaluation.requirements import Minimum, find_unmet, parse_minimums, require_metrics
from infra.models.scores import AdapterScore, write_score
from infra.models.selection import select_weights
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.resources.model_endpoint import find_endpoint
from infra.verbs.push import Publication, PushResult, push, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from infra.console import Console
    from infra.evaluation.examples import Example
    from infra.evaluation.metrics import Metric
    from infra.evaluation.results import Evaluation
    from infra.session import Session

LIVE: Final = "live"
NEW: Final = "new"


@dataclass(frozen=True, slots=True)
class Gate:
    """What a new adapter must reach.

    Attributes:
        data: The name of the file with the examples.
        examples: The examples.
        metrics: How the answers are scored.
        minimums: The least mean scores.
        rival: What the new adapter must not be worse than: `live`, the name of a served model, or None.
        max_tokens: The most tokens of an answer.
    """

    data: str
    examples: tuple[Example, ...]
    metrics: tuple[Metric, ...]
    minimums: tuple[Minimum, ...]
    rival: str | None
    max_tokens: int


@dataclass(frozen=True, slots=True)
class GatedPush:
    """The result of a push with a gate.

    Attributes:
        evaluation: The results of the new adapter and of what it was compared with.
        pushed: The push; None if the adapter did not pass, and nothing changed.
    """

    evaluation: Evaluation
    pushed: PushResult | None

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        pushed = {} if self.pushed is None else self.pushed.to_json()
        return {**pushed, "has_passed": self.pushed is not None, "evaluation": self.evaluation.to_json()}

    def to_text(self) -> str:
        """Return the tables and the outcome."""
        outcome = "not passed: nothing has changed" if self.pushed is None else self.pushed.to_text()
        return f"{self.evaluation.to_text()}\n{outcome}"


def load_gate(data: Path, minimums: Sequence[str], rival: str | None, max_tokens: int = 512) -> Gate:
    """Read what a gate needs. Without a requirement, the adapter must not be worse than what is live.

    Raises:
        UsageError: The file or a requirement cannot be used.
    """
    examples = read_examples(data, Columns())
    parsed = parse_minimums(minimums)
    chosen = rival if rival is not None or parsed else LIVE
    metrics = choose_metrics(examples)
    require_metrics(parsed, [metric.name for metric in metrics], str(data))
    return Gate(data.name, examples, metrics, parsed, chosen, max_tokens)


def push_gated(  # noqa: PLR0913  # each is a flag of the verb
    session: Session,
    gate: Gate,
    *,
    adapter: Path | None = None,
    base: str | None = None,
    name: str | None = None,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
) -> GatedPush:
    """Push an adapter to a stage if it passes.

    Args:
        session: The opened stage.
        gate: What the adapter must reach.
        adapter: As for `push`.
        base: As for `push`.
        name: As for `push`.
        timeout_s: As for `push`.
        access: As for `push`.

    Raises:
        UsageError: The weights cannot be served as they are, or there is no adapter.
        RemoteError: Azure rejected a request, or the server does not serve the adapter.
    """
    selection = select_weights(session.root, adapter, base, session.console)
    if selection.adapter is None:
        raise UsageError("--gate is for an adapter", hint="--adapter FOLDER")
    final = name or selection.name
    endpoint = find_endpoint(None, session, "")
    if endpoint is None:
        raise UsageError("there is no stage to push to", hint="--stage NAME")

    def place(publication: Publication) -> PushResult:
        return push(
            session,
            adapter=adapter,
            base=base,
            name=final,
            publication=publication,
            timeout_s=timeout_s,
            access=access,
        )

    def take_away(placed: PushResult) -> None:
        if placed.is_new_version:
            remove(session, placed.model, timeout_s=timeout_s, access=access)
            return
        with open_deploy_context(session, timeout_s, access) as context, context.lock.hold("models") as held:
            context.adapter_rollout(held).withdraw(placed.model)

    folder = session.root / ".fjarr" / "evaluations" / f"gate-{final}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    result = run_gate(gate, final, endpoint, folder, session.console, place, take_away)
    if result.pushed is not None:
        with open_deploy_context(session, timeout_s, access) as context:
            write_score(context.share, final, make_score(result.evaluation))
    return result


def run_gate(  # noqa: PLR0913, PLR0917  # all of it is what differs between a stage and a test
    gate: Gate,
    name: str,
    endpoint: Endpoint,
    folder: Path,
    console: Console,
    place: Callable[[Publication], PushResult],
    take_away: Callable[[PushResult], None],
    concurrency: int = 8,
) -> GatedPush:
    """Serve a version beside what is live, evaluate both, and make it the current one if it passes.

    Args:
        gate: What the adapter must reach.
        name: The adapter's name.
        endpoint: The server.
        folder: The folder for the report.
        console: Shows progress.
        place: Pushes the adapter: beside what is live, or as the current version.
        take_away: Undoes the push of a version beside what is live.
        concurrency: The most requests at once.
    """
    rival = _find_rival(gate, name, asyncio.run(list_models(endpoint)), console)
    placed = place("beside")
    has_passed = False
    try:
        work = Work(
            gate.data,
            gate.examples,
            (Candidate(rival, rival, endpoint), Candidate(NEW, placed.model, endpoint)),
            gate.metrics,
            folder,
            Options(gate.max_tokens),
            concurrency,
        )
        results = run(work, console)
        is_rival = gate.rival is not None and (gate.rival != LIVE or rival == name)
        unmet = find_unmet(results, NEW, gate.minimums, not_worse=is_rival)
        results = replace(results, unmet=unmet)
        finish(results)
        has_passed = not unmet
        return GatedPush(results, place("replace") if has_passed else None)
    finally:
        if not has_passed and placed.has_changed:
            take_away(placed)


def make_score(results: Evaluation) -> AdapterScore:
    """Return the score that stays with an adapter."""
    new = next(model for model in results.models if model.name == NEW)
    return AdapterScore(
        results.data,
        len(results.rows),
        datetime.now(UTC).isoformat(timespec="seconds"),
        results.baseline,
        {metric: found.mean for metric, found in new.scores.items()},
    )


def _find_rival(gate: Gate, name: str, served: Sequence[str], console: Console) -> str:
    """Return the model that the new adapter is compared with: the live adapter, else the base.

    Raises:
        UsageError: The gate names a model that is not served.
        RemoteError: Nothing is served.
    """
    if not served:
        raise RemoteError("the server serves no model", hint="invoke deploy")
    if gate.rival not in {None, LIVE, *served}:
        raise UsageError(
            f"--not-worse-than {gate.rival!r} is not served", hint=f"{LIVE}, or one of: {', '.join(served)}"
        )
    if gate.rival not in {None, LIVE}:
        return str(gate.rival)
    if name in served:
        return name
    console.info(f"no adapter {name} is live yet: the new one is compared with {served[0]}")
    return served[0]
