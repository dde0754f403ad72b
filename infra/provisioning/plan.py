"""The plan of a provision, as a value: what would be created, changed and removed, and what is kept. Pure."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.config.stage import STAGES_PATH
from infra.process import REDACTED
from infra.provisioning.attribution import keeping_flag

if TYPE_CHECKING:
    from infra.az.checks import Check
    from infra.az.commands import Group
    from infra.config.kept import KeptFlags
    from infra.config.settings import Hidden
    from infra.document import Json
    from infra.provisioning.changes import PropertyChange, ResourceChange
    from infra.provisioning.profile import ProfilePlan


@dataclass(frozen=True, slots=True)
class ProvisionPlan:
    """What a provision would do.

    Attributes:
        stage: The name of the stage.
        group: The resource group.
        changes: The resources that would be created, changed or removed.
        profile: The workload profile of the app.
        kept_before: The values that the stage keeps already, by name.
        kept: What the flags change in the stage's table.
        unmanaged: The names of what others have configured and the deployment keeps.
        hidden: Values that have no effect, because a stage or a flag sets others.
        warnings: What is left as it is although it was asked for, and further remarks.
        secrets: The names of secret parameters.
        replaces_revision: Whether the running revision must end before the new one can start.
        repairs: What has come apart since the last deployment, and is mended.
        is_forced: Whether everything is deployed again, also if nothing has to be changed.
        checks: The checks of what Azure would accept; empty if they were not made.
    """

    stage: str
    group: Group
    changes: tuple[ResourceChange, ...]
    profile: ProfilePlan
    kept_before: tuple[tuple[str, Json], ...]
    kept: KeptFlags
    unmanaged: tuple[str, ...] = ()
    hidden: tuple[Hidden, ...] = ()
    warnings: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()
    replaces_revision: bool = False
    repairs: tuple[str, ...] = ()
    is_forced: bool = False
    checks: tuple[Check, ...] = ()

    @property
    def has_changes(self) -> bool:
        """Tell whether anything would be done on Azure."""
        return bool(self.changes) or self.is_forced

    @property
    def losses(self) -> tuple[PropertyChange, ...]:
        """Return the values of others that would be lost."""
        return tuple(each for change in self.changes for each in change.properties if each.is_destructive)

    @property
    def is_destructive(self) -> bool:
        """Tell whether something that others set would be lost, or a resource removed."""
        return bool(self.losses) or any(change.action == "remove" for change in self.changes)

    def to_json(self) -> dict[str, object]:
        """Return the document that `provision --dry-run --json` prints."""
        return {
            "stage": self.stage,
            "subscription": self.group.subscription,
            "resource_group": self.group.name,
            "has_changes": self.has_changes,
            "is_destructive": self.is_destructive,
            "changes": [change.to_json() for change in self.changes],
            "profile": self.profile.to_json(),
            "replaces_revision": self.replaces_revision,
            "kept_settings": self._kept_settings(),
            "unset": [edit.name for edit in self.kept.edits if edit.value is None],
            "not_kept": list(self.kept.not_kept),
            "kept_of_others": list(self.unmanaged),
            "hidden": [
                {
                    "name": each.name,
                    "value": self._shown(each.name, each.value),
                    "source": each.source,
                    "by": each.by.source,
                }
                for each in self.hidden
            ],
            "warnings": list(self.warnings),
            "repairs": list(self.repairs),
            "forced": self.is_forced,
            "checks": [check.to_json() for check in self.checks],
        }

    def to_text(self) -> str:
        """Return the lines to print."""
        where = (
            f"stage {self.stage}: resource group {self.group.name} in subscription {self.group.subscription}"
        )
        lines = [f"plan for {where}" if self.has_changes else f"nothing has to be changed for {where}"]
        lines += ["  everything is deployed again (--force)"] if self.is_forced else []
        lines += [f"  mends: {repair}" for repair in self.repairs]
        lines += [f"  {line}" for change in self.changes for line in change.to_text().splitlines()]
        if self.replaces_revision:
            lines.append(
                "  the app is down until the new revision serves: the workload profile has no room for a"
                " second replica (maximumInstanceCount)"
            )
        lines.append(f"  {self.profile.to_text()}")
        new = {edit.name for edit in self.kept.edits}
        kept = {name: f"{name} = {_literal(value)}" for name, value in self._kept_settings().items()}
        old = ", ".join(text for name, text in kept.items() if name not in new)
        lines += [f"  kept for this stage in {STAGES_PATH}: {old}"] if old else []
        lines += [f"  kept from now on: {text}" for name, text in kept.items() if name in new]
        lines += [f"  no longer kept: {edit.name}" for edit in self.kept.edits if edit.value is None]
        lines += [f"  not kept, because it is a secret: {name}" for name in self.kept.not_kept]
        lines += [f"  stays as it is on Azure: {', '.join(self.unmanaged)}"] if self.unmanaged else []
        lines += [
            f"  {each.name} = {_literal(self._shown(each.name, each.value))} in {each.source} has no effect: "
            f"{each.by.source} sets another value"
            for each in self.hidden
        ]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [f"  to keep it: {flag}" for flag in self.keep_flags]
        lines += [
            f"  {line}"
            for check in self.checks
            if check.state != "ok"
            for line in check.to_text().splitlines()
        ]
        return "\n".join(lines)

    @property
    def keep_flags(self) -> tuple[str, ...]:
        """Return the flags that keep the values of others that would be lost, where a parameter sets them."""
        flags = map(keeping_flag, self.losses)
        return tuple(f"--set {shlex.quote(flag)}" for flag in flags if flag)

    def _kept_settings(self) -> dict[str, Json]:
        edited = {edit.name: edit.value for edit in self.kept.edits}
        values = {**dict(self.kept_before), **edited}
        return {name: self._shown(name, value) for name, value in values.items() if value is not None}

    def _shown(self, name: str, value: Json) -> Json:
        return REDACTED if name in self.secrets else value


def _literal(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
