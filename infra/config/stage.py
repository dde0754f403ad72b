"""Read the stages that a project can be deployed to from `infra/stages.toml`.

A stage is a value. This module does not access Azure, and it does not interpret parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from infra.document import json_problem, load_toml, user_path
from infra.errors import UsageError
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from infra.document import Json

STAGES_PATH: Final = Path("infra/stages.toml")
DEFAULT_STAGE: Final = "azure"
CLOUDS: Final = ("azure", "local")
_NAME: Final = re.compile(r"[^\W_][^/\\\x00-\x1f\x7f]*")
_KEYS: Final = ("cloud", "subscription", "resource_group", "location", "mount", "parameters")


@dataclass(frozen=True, slots=True)
class Stage:
    """A place to deploy to.

    Attributes:
        name: The value of `--stage`.
        cloud: `azure`, or `local` for the embedded one.
        subscription: The id of its subscription, if the stage sets it.
        resource_group: The name of its resource group, if the stage sets it.
        location: The region of a resource group that has to be created, if the stage sets it.
        mount: The folder of this machine where the stage's share is mounted, if the stage sets it. Then the
            share is written there, and not over the network.
        overlay: The parameters that the stage sets, as (name, value) pairs.
        config_path: The file that says where the stage was provisioned.
        state_dir: The folder for the pipeline's state of this stage.
    """

    name: str
    cloud: Literal["azure", "local"]
    subscription: str | None
    resource_group: str | None
    location: str | None
    overlay: tuple[tuple[str, Json], ...]
    config_path: Path
    state_dir: Path
    mount: Path | None = None

    @property
    def is_local(self) -> bool:
        """Return whether this stage is on the embedded Azure."""
        return self.cloud == "local"


def load_stage(root: Path, name: str) -> Stage:
    """Return the stage of that name.

    Args:
        root: The project's folder.
        name: The name from the command line.

    Raises:
        UsageError: There is no such stage, or the file is invalid.
    """
    path = root / STAGES_PATH
    tables = _read_tables(path)
    if name not in tables:
        hint = f"the stages in {STAGES_PATH} are: {', '.join(tables)}"
        raise UsageError(f"there is no stage {name!r}{did_you_mean(name, tables)}", hint=hint)
    return _stage(root, name, tables[name])


def load_stages(root: Path) -> tuple[Stage, ...]:
    """Return all stages, in the order of the file.

    Raises:
        UsageError: The file is invalid.
    """
    return tuple(_stage(root, name, table) for name, table in _read_tables(root / STAGES_PATH).items())


def _read_tables(path: Path) -> dict[str, Json]:
    try:
        return load_toml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        hint = "run invoke from the folder of the project, with the file as the repository has it"
        raise UsageError(f"{path} does not exist", hint=hint) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        hint = "save it as UTF-8"
        raise UsageError(f"{STAGES_PATH} is not UTF-8: {error}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"{STAGES_PATH} is not TOML: {error}") from error


def _stage(root: Path, name: str, table: Json) -> Stage:
    if not isinstance(table, dict):
        raise UsageError(f"{STAGES_PATH}: {name!r} is not a table", hint=f"write it as [{name}]")
    problems = _problems(name, table)
    if problems:
        raise UsageError(f"{STAGES_PATH} cannot be used", details=tuple(problems))
    overlay = table.get("parameters", {})
    assert isinstance(overlay, dict)  # noqa: S101  # _problems has checked it
    state_dir = root / ".fjarr" / name
    config_name = "inference.config.json"
    return Stage(
        name=name,
        cloud="local" if table["cloud"] == "local" else "azure",
        subscription=_text(table.get("subscription")),
        resource_group=_text(table.get("resource_group")),
        location=_text(table.get("location")),
        overlay=tuple((key, _expand(value, root)) for key, value in overlay.items()),
        config_path=root / "infra" / config_name if name == DEFAULT_STAGE else state_dir / config_name,
        state_dir=state_dir,
        mount=None if _text(table.get("mount")) is None else user_path(str(table["mount"])),
    )


def _problems(name: str, table: dict[str, Json]) -> list[str]:
    problems = (
        []
        if _NAME.fullmatch(name)
        else [f"{name!r}: cannot be the name of a stage, which is a folder's, too"]
    )
    for key, value in table.items():
        if key not in _KEYS:
            problems.append(f"{name}.{key}: no such setting{did_you_mean(key, _KEYS)}")
        elif key == "parameters" and not isinstance(value, dict):
            problems.append(f"{name}.parameters: must be a table")
        elif key != "parameters" and not isinstance(value, str):
            problems.append(f"{name}.{key}: {value!r} must be text")
        else:
            given = value.items() if isinstance(value, dict) else ((None, value),)
            places = {f"{name}.{key}" + (f".{inner}" if inner else ""): each for inner, each in given}
            problems += [f"{place}: {why}" for place, each in places.items() if (why := json_problem(each))]
    if table.get("cloud") not in CLOUDS:
        problems.append(f"{name}.cloud: must be one of {', '.join(CLOUDS)}")
    return problems


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


def _expand(value: Json, root: Path) -> Json:
    if isinstance(value, str):
        return value.replace("{root}", str(root))
    if isinstance(value, list):
        return [_expand(item, root) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, root) for key, item in value.items()}
    return value
