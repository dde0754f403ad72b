"""List the models that a stage serves, and change which versions of its adapters are live."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from infra.az.app import fetch_version
from infra.az.revision import NoResponse, VersionResponse
from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import RemoteError
from infra.models.adapter_index import read_index
from infra.models.versions import find_versions, split_reference
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.resources.file_share import open_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.models.adapter_rollout import AdapterOutcome
    from infra.session import Session
    from infra.share.protocol import Share

Change = Literal["current", "serve", "withdraw"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model, by its name in the API.

    Attributes:
        parent: The base's name, if it is an adapter; empty for the base.
        is_served: Whether requests for it are answered.
        detail: Why it is not served, or not as it is on the share; empty if it is.
        needs_restart: Whether a restart would change that.
        version: The number of the adapter's version that the name means; 0 for the base, and if it has none.
    """

    name: str
    parent: str
    is_served: bool
    detail: str = ""
    needs_restart: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version of an adapter on the share.

    Attributes:
        id: Its name with the number, such as `mine@3`.
        created: When it was pushed, in ISO format; empty if that is not known.
        author: Who pushed it, as `user@host`; empty if that is not known.
        names: The names in the API that mean it; none if it is not live.
        digest: Differs whenever its files differ.
    """

    id: str
    created: str
    author: str
    names: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class VersionList:
    """The versions of adapters on a share, by name, the newest first."""

    versions: tuple[StoredVersion, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        rows = [
            (
                each.id,
                each.created[:19],
                each.author,
                f"live as {', '.join(each.names)}" if each.names else "",
            )
            for each in self.versions
        ]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines) or "there is no adapter on the share: invoke push"


@dataclass(frozen=True, slots=True)
class VersionChange:
    """The result of a change of which versions are live.

    Attributes:
        model: The version, such as `mine@2`.
        change: What was done: `current`, `serve` or `withdraw`.
        is_live: Whether every replica was seen to apply it without a restart.
        is_restarted: Whether the live release was restarted.
        replicas: The replicas that were seen to apply it.
        proof: Where that was seen: at the app's `address`, or `inside` of its replicas; else empty.
    """

    model: str
    change: Change
    is_live: bool
    is_restarted: bool
    replicas: tuple[str, ...]
    proof: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        since = "with the next deploy"
        if self.is_live:
            since = "since now, without a restart"
        elif self.is_restarted:
            since = "since a restart"
        texts: dict[Change, str] = {
            "current": "is the current version",
            "serve": "is served beside the current version",
            "withdraw": "is not served any more",
        }
        return f"{self.model} {texts[self.change]}, {since}"


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models of a stage, the base first."""

    stage: str
    release: str
    models: tuple[ModelStatus, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        width = max((len(model.name) for model in self.models), default=0)
        return "\n".join(f"{model.name:<{width}}  {_state(model)}" for model in self.models)


def find_models(session: Session) -> ModelList:
    """Ask a stage's server for its models.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: The server does not answer.
    """
    config = session.config()
    answer = fetch_version(config.endpoint_url)
    if isinstance(answer, NoResponse):
        raise RemoteError(f"{config.aca_app_name} does not answer: {answer.reason}", hint="invoke status")
    return ModelList(session.stage.name, answer.release, list_models(answer))


def find_stored(session: Session) -> VersionList:
    """Return the versions of adapters on a stage's share.

    Raises:
        UsageError: The stage is not provisioned, or its local cloud is stopped.
        RemoteError: Azure denies access to the share.
    """
    session.require_cloud()
    with open_share(session) as share:
        return list_stored(share)


def list_stored(share: Share) -> VersionList:
    """Return the versions of adapters on an open share."""
    index = read_index(share)
    versions = (version for name in sorted(index.numbers) for version in reversed(find_versions(share, name)))
    return VersionList(
        tuple(
            StoredVersion(
                version.id,
                version.created,
                version.author,
                tuple(name for name, each in index.adapters.items() if each.folder == version.folder),
                version.digest,
            )
            for version in versions
        )
    )


def change_version(
    session: Session,
    change: Change,
    reference: str,
    *,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
) -> VersionChange:
    """Change whether a version of an adapter is live, and see every replica apply it.

    Args:
        session: The opened stage.
        change: `current` gives it the adapter's bare name, `serve` serves it beside the current version, and
            `withdraw` serves it no more.
        reference: The version, such as `mine@2`.
        timeout_s: How long to wait for it; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.

    Raises:
        UsageError: There is no such version, or the change changes nothing.
        RemoteError: A replica rejects it; what was live before is live again.
        WaitTimeoutError: A replica does not serve it in time; what was live before is live again.
    """
    session.require_cloud()
    split_reference(reference)
    with open_deploy_context(session, timeout_s, access) as context:
        return change_version_in(context.reached(), change, reference)


def change_version_in(context: DeployContext, change: Change, reference: str) -> VersionChange:
    """Change whether a version is live, in an open context. The parameters are those of `change_version`."""
    with context.hooks.around("models", version=reference), context.lock.hold("models") as held:
        rollout = context.adapter_rollout(held)
        changes: dict[Change, Callable[[str], AdapterOutcome]] = {
            "current": rollout.make_current,
            "serve": rollout.serve,
            "withdraw": rollout.withdraw,
        }
        outcome = changes[change](reference)
    return VersionChange(
        reference, change, outcome.is_live, outcome.is_restarted, outcome.replicas, outcome.proof
    )


def list_models(answer: VersionResponse) -> tuple[ModelStatus, ...]:
    """Return the models in a response of `/version`."""
    failed = {adapter.name: adapter for adapter in answer.failed_adapters}
    versions = {each.name: each.number for each in answer.adapter_versions}
    base = (ModelStatus(answer.base_model, "", is_served=True),) if answer.base_model else ()
    served = tuple(
        ModelStatus(
            name,
            answer.base_model,
            is_served=True,
            detail=failed[name].reason if name in failed else "",
            needs_restart=name in failed and failed[name].needs_restart,
            version=versions.get(name, 0),
        )
        for name in answer.adapters
    )
    others = tuple(
        ModelStatus(name, answer.base_model, False, adapter.reason, adapter.needs_restart)  # noqa: FBT003 - as above
        for name, adapter in failed.items()
        if name not in answer.adapters
    )
    return (*base, *served, *others)


def _state(model: ModelStatus) -> str:
    kind = f"adapter of {model.parent}" if model.parent else "base model"
    kind += f", version {model.version}" if model.version else ""
    if not model.detail:
        return kind
    state = "served as it was before" if model.is_served else "not served"
    return f"{kind}, {state}: {model.detail}{' (invoke restart)' if model.needs_restart else ''}"
