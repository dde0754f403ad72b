"""List the models that a stage serves, and the adapters that it does not serve, with the reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from infra.az.app import fetch_version
from infra.az.revision import NoResponse, VersionResponse
from infra.errors import RemoteError

if TYPE_CHECKING:
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model, by its name in the API.

    Attributes:
        parent: The base's name, if it is an adapter; empty for the base.
        is_served: Whether requests for it are answered.
        detail: Why it is not served, or not as it is on the share; empty if it is.
        needs_restart: Whether a restart would change that.
    """

    name: str
    parent: str
    is_served: bool
    detail: str = ""
    needs_restart: bool = False


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


def list_models(answer: VersionResponse) -> tuple[ModelStatus, ...]:
    """Return the models in a response of `/version`."""
    failed = {adapter.name: adapter for adapter in answer.failed_adapters}
    base = (ModelStatus(answer.base_model, "", is_served=True),) if answer.base_model else ()
    served = tuple(
        ModelStatus(
            name,
            answer.base_model,
            is_served=True,
            detail=failed[name].reason if name in failed else "",
            needs_restart=name in failed and failed[name].needs_restart,
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
    if not model.detail:
        return kind
    state = "served as it was before" if model.is_served else "not served"
    return f"{kind}, {state}: {model.detail}{' (invoke restart)' if model.needs_restart else ''}"
