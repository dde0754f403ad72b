"""Read everything that a provision is decided by on this machine, and report all mistakes at once.

The files, the stage and the flags are read and validated before Azure or the user is asked anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from infra.az.limits import OWN_TAG_PREFIX
from infra.config.contradictions import find_contradictions
from infra.config.kept import KeptFlags, kept_flags, without_unset
from infra.config.parameters import render_parameters
from infra.config.settings import (
    MISPLACED_PARAMETERS,
    USER_PARAMETERS,
    Handover,
    Setting,
    Settings,
    from_flags,
    from_stage,
    merge,
    merge_known,
    read_handover,
    read_user_parameters,
)
from infra.config.stage import STAGES_PATH, Stage
from infra.config.template import COMPILED, Template, read_template
from infra.config.toolkit import without_toolkit_server
from infra.document import as_object
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from infra.az.commands import Group
    from infra.config.settings import Flags

T = TypeVar("T")

OWN_TAGS: Final = 2
MAX_TAGS: Final = 50 - OWN_TAGS
"""The tags that a user can set. Source: a resource has at most 50."""

PROVISIONS_OWN: Final = ("environmentExists", "unmanaged", "unmanagedSecrets")
"""The parameters that provision sets itself."""

_GROUP_NAME: Final = re.compile(r"[\w.()-]{0,89}[\w()-]")
_REGION: Final = re.compile(r"[A-Za-z][A-Za-z0-9 ]*")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The validated inputs of a provision.

    Attributes:
        stage: The stage, without what the flags take back.
        template: The template to deploy.
        handover: What the fine-tuning step left.
        layers: The parameters from the files, the stage and the flags, from lowest to highest priority.
        kept: What the flags change in the stage's table.
        notes: What the user should know about the files.
    """

    stage: Stage
    template: Template
    handover: Handover
    layers: tuple[tuple[Setting, ...], ...]
    kept: KeptFlags
    notes: tuple[str, ...] = ()

    def settings(self, group: Group) -> Settings:
        """Return the parameters for a deployment into a group.

        Raises:
            UsageError: A parameter is not allowed, together with what the fine-tuning step left.
        """
        settings = merge((self.handover.values_for(group), *self.layers), self.template.names)
        render_parameters(settings, self.template)
        return settings


def read_inputs(
    root: Path, stage: Stage, flags: Flags, compiled: Path | None = None, found: Sequence[UsageError] = ()
) -> Inputs:
    """Read and validate the inputs of a provision.

    Args:
        root: The project's folder.
        stage: The stage.
        flags: The flags of the command line.
        compiled: The compiled template; None for the committed one.
        found: Errors that were found before, which are reported with the others.

    Raises:
        UsageError: Something must be corrected. All mistakes are reported.
    """
    errors = list(found)
    template = _collect(errors, lambda: read_template(compiled or root / COMPILED), Template({}, {}))
    handover = _collect(errors, lambda: read_handover(root), Handover())
    none: tuple[Setting, ...] = ()
    misplaced = _collect(errors, lambda: read_user_parameters(root, MISPLACED_PARAMETERS), none)
    user = _collect(errors, lambda: read_user_parameters(root), none)
    given = _collect(errors, lambda: from_flags(flags, template.texts), none)
    kept = KeptFlags()
    if len(errors) == len(found):
        kept = _collect(errors, lambda: kept_flags(flags, stage, template.texts, template.secrets), kept)
    changed = without_unset(stage, kept)
    errors += _target_errors(changed, flags)
    misplaced, misplaced_notes = without_toolkit_server(misplaced, stage.name)
    user, notes = without_toolkit_server(user, stage.name)
    if (root / MISPLACED_PARAMETERS).exists():
        place = (
            f"{MISPLACED_PARAMETERS} is read; its place is {USER_PARAMETERS}, whose values take precedence"
        )
        notes = (place, *misplaced_notes, *notes)
    layers = (misplaced, user, from_stage(changed), given)
    if template.names:
        settings, error = merge_known(layers, template.names)
        errors += [] if error is None else [error]
        errors += _own_parameters(settings)
        errors += _contradictions(settings, template, stage)
        _collect(errors, lambda: render_parameters(settings, template), "")
    if errors:
        raise UsageError.combined(errors)
    return Inputs(changed, template, handover, layers, kept, notes)


def _collect(errors: list[UsageError], read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except UsageError as error:
        errors.append(error)
        return otherwise


def _own_parameters(settings: Settings) -> list[UsageError]:
    own = [each for each in settings.values if each.name in PROVISIONS_OWN]
    details = [f"{each.name} (from {each.source}): is set by provision itself" for each in own]
    setting = settings.find("tags")
    tags = [*as_object(setting.value if setting else None)]
    details += [
        f"tags.{name} (from {settings.source('tags', name)}): is set by provision itself"
        for name in tags
        if name.casefold().startswith(OWN_TAG_PREFIX)
    ]
    if len(tags) > MAX_TAGS:
        details.append(f"tags: {len(tags)} are more than {MAX_TAGS}; provision adds {OWN_TAGS} of its own")
    hint = "leave it out" if len(details) == 1 else "leave them out"
    return [UsageError("a parameter cannot be set", details=tuple(details), hint=hint)] if details else []


def _contradictions(settings: Settings, template: Template, stage: Stage) -> list[UsageError]:
    found = find_contradictions(settings, template, is_local=stage.is_local)
    if not found:
        return []
    what = "a setting of the server contradicts" if len(found) == 1 else f"{len(found)} settings contradict"
    return [UsageError(f"{what} the deployment", details=found)]


def _target_errors(stage: Stage, flags: Flags) -> list[UsageError]:
    """Return what is wrong with the names of the resource group and the region."""
    named = f"stage {stage.name} in {STAGES_PATH}"
    group = flags.resource_group or stage.resource_group
    errors = []
    if group and not _GROUP_NAME.fullmatch(group):
        rule = "must have at most 90 letters, digits and . _ - ( ), and not end with a dot"
        source = "--resource-group" if flags.resource_group else named
        errors.append(UsageError(f"the resource group {group!r} (from {source}) {rule}"))
    if stage.location and not _REGION.fullmatch(stage.location):
        rule = "must be a region, such as swedencentral"
        errors.append(UsageError(f"the location {stage.location!r} (from {named}) {rule}"))
    return errors
