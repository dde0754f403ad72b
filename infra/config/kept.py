"""Keep the flags of a provision for the next ones, in the stage's table of `infra/stages.toml`.

A person can read, edit and commit that file; comments and order stay as they are. Secrets are never kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table

from infra.config.settings import MAPS, Flags, from_flags
from infra.config.stage import STAGES_PATH
from infra.document import as_object, load_toml, write_atomic
from infra.errors import UsageError
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, MutableMapping
    from pathlib import Path

    from infra.config.stage import Stage
    from infra.document import Json

TARGETS: Final = ("subscription", "resource_group")
"""The settings of a stage that have flags of their own, and are not parameters."""

_PARAMETERS: Final = "parameters"
_BYTE_ORDER_MARK: Final = "\ufeff"
_SECRET_NAME: Final = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|CONNECTION_?STRING|HEADERS|(^|_)(KEYS?|SAS|DSN)(_|$)",
    re.IGNORECASE,
)
_OWN_SECRETS: Final = ("FJARR_API_KEYS", "FJARR_ADMIN_KEY")
_PASSWORD_IN_ADDRESS: Final = re.compile(r"://[^/\s:@]*:[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one value in a stage's table.

    Attributes:
        path: The keys that lead to the value, such as `("parameters", "gpu")`.
        value: The value to keep; None takes it back.
    """

    path: tuple[str, ...]
    value: Json

    @property
    def name(self) -> str:
        """Return the name that `--unset` takes, such as `environmentVariables.FJARR_ENGINE`."""
        return kept_name(self.path)


def kept_name(path: tuple[str, ...]) -> str:
    """Return the name of a value in a stage's table: its path without `parameters`."""
    return ".".join(path[1:] if path[:1] == (_PARAMETERS,) else path)


@dataclass(frozen=True, slots=True)
class KeptFlags:
    """What the flags of a run change in a stage's table.

    Attributes:
        edits: The changes.
        not_kept: The names of secrets, which are deployed but not kept.
    """

    edits: tuple[Edit, ...] = ()
    not_kept: tuple[str, ...] = ()


def kept_flags(flags: Flags, stage: Stage, texts: Collection[str], secrets: Collection[str]) -> KeptFlags:
    """Return what flags change in a stage's table; nothing for what it has already.

    Args:
        flags: The flags.
        stage: The stage as it is in the file.
        texts: The parameters that are text.
        secrets: The parameters that are secret.

    Raises:
        UsageError: An `--unset` names a value that is not kept, or a `--set` cannot be read.
    """
    edits = [Edit(path, None) for path in _unset_paths(flags, stage)]
    targets = {"subscription": flags.subscription, "resource_group": flags.resource_group}
    given: list[tuple[tuple[str, ...], Json]] = [((key,), value) for key, value in targets.items() if value]
    not_kept = []
    for setting in from_flags(flags, texts):
        if setting.name in MAPS and isinstance(setting.value, dict):
            given += [((_PARAMETERS, setting.name, entry), text) for entry, text in setting.value.items()]
        else:
            given.append(((_PARAMETERS, setting.name), setting.value))
    current = current_values(stage)
    unset = {edit.path for edit in edits}
    for path, value in given:
        has_password = isinstance(value, str) and _PASSWORD_IN_ADDRESS.search(value)
        if path[1:2] and (path[1] in secrets or is_secret_name(path[-1]) or has_password):
            not_kept.append(".".join(path[1:]))
        elif current.get(path) != value or path in unset or path[:2] in unset:
            edits.append(Edit(path, value))
    return KeptFlags(tuple(edits), tuple(not_kept))


def is_secret_name(name: str) -> bool:
    """Tell whether a variable's name is that of a secret, such as `HF_TOKEN`.

    The server's own settings are none, such as `FJARR_MAX_NEW_TOKENS`.
    """
    is_own = name.startswith("FJARR_") and name not in _OWN_SECRETS
    return name.isupper() and not is_own and _SECRET_NAME.search(name) is not None


def without_unset(stage: Stage, kept: KeptFlags) -> Stage:
    """Return a stage without the values that are taken back."""
    overlay = dict(stage.overlay)
    gone = {edit.path for edit in kept.edits if edit.value is None}
    for _, *inner in gone:
        if len(inner) == 1:
            overlay.pop(inner[0], None)
        elif inner:
            entries = overlay.get(inner[0])
            rest = {key: text for key, text in as_object(entries).items() if key != inner[1]}
            overlay[inner[0]] = rest or None
    return replace(
        stage,
        subscription=None if ("subscription",) in gone else stage.subscription,
        resource_group=None if ("resource_group",) in gone else stage.resource_group,
        overlay=tuple(overlay.items()),
    )


def write_kept(root: Path, stage: str, kept: KeptFlags) -> None:
    """Write what flags change into the file of stages.

    Raises:
        UsageError: The file cannot be written.
    """
    if not kept.edits:
        return
    path = root / STAGES_PATH
    try:
        text = path.read_bytes().decode()
        mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
        changed = mark + edited(text.removeprefix(mark), stage, kept.edits)
        write_atomic(path, changed, mode=path.stat().st_mode & 0o777)
    except (OSError, ValueError, TOMLKitError) as error:
        hint = f"make {STAGES_PATH} writable, or write the values there by hand and leave out the flags"
        raise UsageError(f"the flags cannot be kept in {STAGES_PATH}: {error}", hint=hint) from error


def edited(text: str, stage: str, edits: Collection[Edit]) -> str:
    """Return the text of a file of stages with changes to one stage's table.

    Raises:
        ValueError: The file has a form in which the values cannot be written.
    """
    line_end = "\r\n" if "\r\n" in text else "\n"
    document = tomlkit.parse(text.replace("\r\n", "\n"))
    wanted = load_toml(text)
    had_parameters = _PARAMETERS in wanted[stage]
    for edit in edits:
        _apply(document, (stage, *edit.path), edit.value)
        _apply_plain(wanted, (stage, *edit.path), edit.value)
    table = document[stage]
    made = table.get(_PARAMETERS) if isinstance(table, Table) else None
    if isinstance(made, Table) and not had_parameters:
        made.add(tomlkit.nl())  # a blank line before the table that follows
    changed = tomlkit.dumps(document).rstrip("\n").replace("\n", line_end) + line_end
    if load_toml(changed) != wanted:
        raise ValueError(f"write the table of stage {stage!r} as [{stage}] and [{stage}.{_PARAMETERS}]")
    return changed


def _apply(document: tomlkit.TOMLDocument, path: tuple[str, ...], value: Json) -> None:
    *parents, key = path
    table: MutableMapping[str, Any] = document
    for depth, parent in enumerate(parents):
        if parent not in table:
            is_inline = parent in MAPS or isinstance(table, InlineTable)
            table[parent] = tomlkit.inline_table() if is_inline else tomlkit.table()
        inner = table[parent]
        if value is None and depth == len(parents) - 1 and parent in MAPS and list(inner) == [key]:
            del table[parent]
            return
        table = inner
    if value is not None:
        table[key] = value
    else:
        table.pop(key, None)


def _apply_plain(document: dict[str, Any], path: tuple[str, ...], value: Json) -> None:
    *parents, key = path
    tables = [document]
    for parent in parents:
        tables.append(tables[-1].setdefault(parent, {}))
    if value is not None:
        tables[-1][key] = value
        return
    tables[-1].pop(key, None)
    if parents[-1] in MAPS and not tables[-1]:
        del tables[-2][parents[-1]]


def _unset_paths(flags: Flags, stage: Stage) -> list[tuple[str, ...]]:
    current = current_values(stage)
    known = {kept_name(path): path for path in current}
    known |= {name: (_PARAMETERS, name) for name in MAPS if (_PARAMETERS, name) in {p[:2] for p in current}}
    wrong = [name for name in flags.unset if _unset_name(name) not in known]
    if wrong:
        details = tuple(f"{name}: is not kept{did_you_mean(name, known)}" for name in wrong)
        kept = f"kept are: {', '.join(sorted(known))}" if known else "nothing is kept"
        what = f"--unset takes back what stage {stage.name!r} in {STAGES_PATH} keeps"
        raise UsageError(what, details=details, hint=kept)
    return [known[_unset_name(name)] for name in flags.unset]


def _unset_name(name: str) -> str:
    return name.replace("-", "_") if name.replace("-", "_") in TARGETS else name


def current_values(stage: Stage) -> dict[tuple[str, ...], Json]:
    """Return the values that a stage's table has by their paths; the entries of a map each have one."""
    targets = {"subscription": stage.subscription, "resource_group": stage.resource_group}
    values: dict[tuple[str, ...], Json] = {(key,): value for key, value in targets.items() if value}
    for name, value in stage.overlay:
        if name in MAPS and isinstance(value, dict):
            values |= {(_PARAMETERS, name, entry): text for entry, text in value.items()}
        else:
            values[_PARAMETERS, name] = value
    return values
