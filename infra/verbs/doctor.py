"""Check a stage's prerequisites on this machine and on Azure, and find the command that fixes each problem.

Changes nothing. A check that depends on a failed one is left out.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import psutil

from infra.az.checks import Check, blocked, ok, unknown
from infra.az.commands import Group, account_show
from infra.config.inputs import read_inputs
from infra.config.settings import Flags, merge
from infra.config.template import effective_values
from infra.document import as_object
from infra.errors import FjarrError, ToolError, UsageError
from infra.process import Command
from infra.provisioning.acceptance import subject_of
from infra.provisioning.deployed import Deployed, read_deployed
from infra.resources.preflight import check_account, check_plan, is_signed_out_by, summary
from infra.resources.target import find_known_group
from infra.wording import readable_size

if TYPE_CHECKING:
    from infra.config.inputs import Inputs
    from infra.session import Session

_MIN_PYTHON: Final = (3, 11)
_MIN_DISK_BYTES: Final = 3_000_000_000
_MIN_LOCAL_MEMORY_BYTES: Final = 3_000_000_000


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of all checks."""

    stage: str
    checks: tuple[Check, ...]

    def require_health(self) -> None:
        """Raise an error if a check failed.

        Raises:
            ToolError: A prerequisite is not met.
        """
        missing = [check.name for check in self.checks if not check.is_ok]
        if missing:
            raise ToolError(f"something is missing: {', '.join(missing)}", hint="see the commands above")

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        is_ok = all(check.is_ok for check in self.checks)
        return {"stage": self.stage, "ok": is_ok, "checks": [check.to_json() for check in self.checks]}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        return "\n".join(check.to_text() for check in self.checks)


def diagnose(session: Session, *, location: str | None = None) -> Diagnosis:
    """Check a stage's prerequisites.

    Args:
        session: The opened stage; a local cloud need not run.
        location: The region to check; None for that of the stage.
    """
    with session.console.step("check this machine"):
        checks = [_python(), _az(session), _bicep(session), _disk(session)]
        if session.stage.is_local:
            checks += [_memory(), _bash()]
    if not session.stage.is_local and checks[1].is_ok:
        with session.console.step("check Azure") as step:
            azure = _azure(session, location)
            step.finish(summary(azure))
        checks += azure
    return Diagnosis(session.stage.name, tuple(checks))


def _python() -> Check:
    is_ok = sys.version_info[:2] >= _MIN_PYTHON
    remedy = "" if is_ok else "create .venv with a newer Python: python3.11 -m venv .venv"
    return Check("Python", "ok" if is_ok else "blocked", platform.python_version(), remedy)


def _az(session: Session) -> Check:
    try:
        return ok("az", session.az.check_version())
    except FjarrError as error:
        return blocked("az", error.message, f"{sys.executable} -m pip install -e .")


def _bicep(session: Session) -> Check:
    path = shutil.which("bicep")
    if path:
        return ok("bicep", session.runner.run(Command((path, "--version"))).stdout.strip())
    if session.has_bicep:
        return ok("bicep", "installed by az")
    found = "not installed; the compiled infra/provision/inference.json is deployed instead"
    return Check("bicep", "ok", found, "to deploy a template that you changed: az bicep install")


def _disk(session: Session) -> Check:
    free = shutil.disk_usage(session.root).free
    is_ok = free >= _MIN_DISK_BYTES
    needed = readable_size(_MIN_DISK_BYTES)
    remedy = "" if is_ok else f"free some space: {needed} are needed for models and the share"
    return Check("disk", "ok" if is_ok else "blocked", f"{readable_size(free)} free", remedy)


def _memory() -> Check:
    free = psutil.virtual_memory().available
    is_ok = free >= _MIN_LOCAL_MEMORY_BYTES
    needed = readable_size(_MIN_LOCAL_MEMORY_BYTES)
    remedy = "" if is_ok else f"end other programs: a replica with the example model needs {needed}"
    return Check("memory", "ok" if is_ok else "blocked", f"{readable_size(free)} available", remedy)


def _bash() -> Check:
    found = shutil.which("bash", path=os.defpath) or shutil.which("bash")
    remedy = "" if found else "install bash: a container's command runs in it"
    return Check("bash", "ok" if found else "blocked", found or "not here", remedy)


def _azure(session: Session, location: str | None) -> tuple[Check, ...]:
    """Return what `provision` checks online, and whether the share is mounted with a valid key."""
    try:
        inputs = read_inputs(session.root, session.stage, Flags(location=location))
        group = find_known_group(session, inputs.handover)
        settings = inputs.settings(group) if group else None
    except UsageError as error:
        return (blocked("settings", "; ".join((error.message, *error.details)), error.hint or ""),)
    try:
        subscription = group.subscription if group else _subscription(session, inputs)
    except FjarrError as error:
        return (blocked("sign-in", error.message, error.hint or "az login"),)
    account = check_account(session, subscription)
    if is_signed_out_by(account):
        return account
    if group is None or settings is None:
        return (*account, *_region(session, subscription, inputs, location))
    try:
        deployed = read_deployed(session, group, settings.names(group))
        values = effective_values(settings.to_values(), inputs.template)
        region = location or settings.text("location") or session.stage.location or ""
        subject = subject_of(session, group, settings.names(group), values, deployed, region)
    except FjarrError as error:
        return (*account, unknown("what is deployed", error.message))
    return (*account, *check_plan(session, subject), *_mount_key(session, deployed))


def _subscription(session: Session, inputs: Inputs) -> str:
    """Return the id of the subscription that the stage or the hand-over names, else of the current one."""
    named = session.stage.subscription or inputs.handover.subscription
    return str(as_object(session.az.run(account_show(named))).get("id"))


def _region(session: Session, subscription: str, inputs: Inputs, location: str | None) -> tuple[Check, ...]:
    """Return the checks that need no resource group."""
    region = location or session.stage.location
    if not region:
        return (unknown("region", "it is not known where to provision", "add --location"),)
    settings = merge(inputs.layers, inputs.template.names)
    values = effective_values(settings.to_values(), inputs.template)
    nowhere = Group(subscription, "")
    subject = subject_of(session, nowhere, settings.names(nowhere), values, Deployed(), region)
    return check_plan(session, replace(subject, account=""))


def _mount_key(session: Session, deployed: Deployed) -> tuple[Check, ...]:
    """Return whether the app's share is mounted with a key that the storage account still has."""
    name, remedy = "mount key", f"invoke provision --stage {session.stage.name}"
    if not deployed.app:
        return ()
    if deployed.key_state == "rotated":
        return (blocked(name, "the storage account's key was rotated since the share was mounted", remedy),)
    if deployed.key_state == "unknown":
        found = "the app does not record the key that it mounts with, or the keys cannot be read"
        return (unknown(name, found, remedy),)
    return (ok(name, "the share is mounted with a key that the storage account has"),)
