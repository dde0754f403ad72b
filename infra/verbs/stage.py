"""List the stages of the project, and show where one is and what is kept for it. Reads files alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal

from infra.config.endpoint import read_config
from infra.config.kept import current_values, is_secret_name, kept_name
from infra.config.stage import STAGES_PATH, load_stage, load_stages
from infra.errors import UsageError
from infra.process import REDACTED
from infra.session import cloud_state, read_cloud
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from infra.config.stage import Stage
    from infra.document import Json

Action = Literal["list", "show"]
_ACTIONS: Final[tuple[Action, ...]] = ("list", "show")


@dataclass(frozen=True, slots=True)
class StageSummary:
    """A stage and its state, as far as this machine knows it.

    Attributes:
        state: `up` or `stopped` for a local stage, `provisioned` for one on Azure, else `not provisioned`.
        endpoint: Its address; None if it is not provisioned.
    """

    name: str
    cloud: str
    state: str
    resource_group: str | None
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class StageList:
    """All stages.

    Attributes:
        default: The one that is meant where none is named.
    """

    stages: tuple[StageSummary, ...]
    default: str

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return one line for each stage; a star marks the default."""
        width = max((len(each.name) for each in self.stages), default=0)
        return "\n".join(
            f"{'*' if each.name == self.default else ' '} {each.name:<{width}}  {each.cloud:<5}  {each.state}"
            f"{f'  {each.endpoint}' if each.endpoint else ''}"
            for each in self.stages
        )


@dataclass(frozen=True, slots=True)
class StageDetails:
    """One stage with the settings that are kept for it.

    Attributes:
        settings: What `infra/stages.toml` sets, by name; secrets are redacted.
        files: Where its state is kept.
    """

    summary: StageSummary
    settings: dict[str, Json]
    files: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {**asdict(self.summary), "settings": self.settings, "files": self.files}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        summary = {name: value for name, value in asdict(self.summary).items() if value}
        rows = [(name.replace("_", " "), str(value)) for name, value in summary.items()]
        rows += [(f"{name} =", str(value)) for name, value in self.settings.items()]
        rows += list(self.files.items())
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def check_action(action: str) -> Action:
    """Return an action of this verb.

    Raises:
        UsageError: There is no such action.
    """
    if action not in _ACTIONS:
        what = f"{action!r} is no action of invoke stage{did_you_mean(action, _ACTIONS)}"
        raise UsageError(what, hint="invoke stage list, or invoke stage show NAME")
    return action


def list_stages(root: Path, default: str) -> StageList:
    """Return all stages of a project.

    Raises:
        UsageError: The file of stages is invalid.
    """
    return StageList(tuple(_summary(root, stage) for stage in load_stages(root)), default)


def show_stage(root: Path, name: str) -> StageDetails:
    """Return one stage of a project.

    Raises:
        UsageError: There is no such stage, or a file is invalid.
    """
    stage = load_stage(root, name)
    settings = {
        kept_name(path): REDACTED if is_secret_name(path[-1]) else value
        for path, value in current_values(stage).items()
    }
    files = {
        "settings in": f"{STAGES_PATH} [{name}]",
        "configuration": _relative(root, stage.config_path),
        "state in": _relative(root, stage.state_dir),
    }
    return StageDetails(_summary(root, stage), settings, files)


def _summary(root: Path, stage: Stage) -> StageSummary:
    if not stage.config_path.exists():
        return StageSummary(stage.name, stage.cloud, "not provisioned", stage.resource_group, None)
    config = read_config(stage.config_path)
    is_up = not stage.is_local or read_cloud(cloud_state(root, stage)) is not None
    state = ("up" if is_up else "stopped") if stage.is_local else "provisioned"
    return StageSummary(stage.name, stage.cloud, state, config.resource_group_name, config.endpoint_url)


def _relative(root: Path, path: Path) -> str:
    return str(path.relative_to(root))
