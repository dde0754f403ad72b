"""Check a stage's prerequisites on this machine and on Azure, and find the command that fixes each problem.

Changes nothing. A check that depends on a failed one is left out.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import psutil

from infra.az.commands import account_show, location_usages, workload_profiles_supported
from infra.config.settings import from_stage, merge_known, read_handover, read_user_parameters
from infra.config.template import COMPILED, effective_values, read_template
from infra.document import as_object
from infra.errors import FjarrError, ToolError
from infra.process import Command
from infra.wording import readable_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.document import Json
    from infra.session import Session

_MIN_PYTHON: Final = (3, 11)
_MIN_DISK_BYTES: Final = 3_000_000_000
_MIN_LOCAL_MEMORY_BYTES: Final = 3_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        is_ok: Whether the prerequisite is met.
        found: A description of what was found.
        remedy: The command that fixes the problem; empty if there is none.
    """

    name: str
    is_ok: bool
    found: str
    remedy: str = ""


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
        return {"stage": self.stage, "ok": is_ok, "checks": [asdict(check) for check in self.checks]}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        return "\n".join(_check_text(check) for check in self.checks)


def diagnose(session: Session, *, location: str | None = None) -> Diagnosis:
    """Check a stage's prerequisites.

    Args:
        session: The opened stage; a local cloud need not run.
        location: Also check the GPU profiles and the quota of this region.
    """
    with session.console.step("check this machine"):
        checks = [_python(), _az(session), _bicep(session), _disk(session)]
        if session.stage.is_local:
            checks += [_memory(), _bash()]
    if not session.stage.is_local and checks[1].is_ok:
        with session.console.step("check your Azure account"):
            account = _account(session)
            checks.append(account)
            if account.is_ok and location:
                checks += _region(session, location)
    return Diagnosis(session.stage.name, tuple(checks))


def _python() -> Check:
    is_ok = sys.version_info[:2] >= _MIN_PYTHON
    remedy = "" if is_ok else "create .venv with a newer Python: python3.11 -m venv .venv"
    return Check("Python", is_ok, platform.python_version(), remedy)


def _az(session: Session) -> Check:
    try:
        return Check("az", is_ok=True, found=session.az.check_version())
    except FjarrError as error:
        return Check("az", is_ok=False, found=error.message, remedy=f"{sys.executable} -m pip install -e .")


def _bicep(session: Session) -> Check:
    path = shutil.which("bicep")
    if path:
        return Check(
            "bicep", is_ok=True, found=session.runner.run(Command((path, "--version"))).stdout.strip()
        )
    if session.has_bicep:
        return Check("bicep", is_ok=True, found="installed by az")
    found = "not installed; the compiled infra/provision/inference.json is deployed instead"
    return Check(
        "bicep", is_ok=True, found=found, remedy="to deploy a template that you changed: az bicep install"
    )


def _disk(session: Session) -> Check:
    free = shutil.disk_usage(session.root).free
    is_ok = free >= _MIN_DISK_BYTES
    needed = readable_size(_MIN_DISK_BYTES)
    remedy = "" if is_ok else f"free some space: {needed} are needed for models and the share"
    return Check("disk", is_ok, f"{readable_size(free)} free", remedy)


def _memory() -> Check:
    free = psutil.virtual_memory().available
    is_ok = free >= _MIN_LOCAL_MEMORY_BYTES
    needed = readable_size(_MIN_LOCAL_MEMORY_BYTES)
    remedy = "" if is_ok else f"end other programs: a replica with the example model needs {needed}"
    return Check("memory", is_ok, f"{readable_size(free)} available", remedy)


def _bash() -> Check:
    found = shutil.which("bash", path=os.defpath) or shutil.which("bash")
    remedy = "" if found else "install bash: a container's command runs in it"
    return Check("bash", found is not None, found or "not here", remedy)


def _account(session: Session) -> Check:
    try:
        account = as_object(session.az.run(account_show()))
    except FjarrError as error:
        return Check("sign-in", is_ok=False, found=error.message, remedy=error.hint or "az login")
    user = as_object(account.get("user")).get("name")
    return Check(
        "sign-in", is_ok=True, found=f"{user}, subscription {account.get('name')} ({account.get('id')})"
    )


def _region(session: Session, location: str) -> Iterator[Check]:
    """Yield whether a region has the GPU profile that would be provisioned, and its quota."""
    subscription = _subscription(session)
    try:
        profiles = session.az.run(workload_profiles_supported(subscription, location))
        usages = session.az.run(location_usages(subscription, location))
    except FjarrError as error:
        yield Check(f"region {location}", is_ok=False, found=error.message, remedy=error.hint or "")
        return
    kind = _gpu_profile_type(session)
    names = [str(as_object(item).get("name")) for item in profiles] if isinstance(profiles, list) else []
    is_there = kind in names
    found = f"{kind} is offered" if is_there else f"{kind} is not offered; GPU profiles: {_gpu_names(names)}"
    remedy = (
        ""
        if is_there
        else "invoke provision --set gpu=NAME for another GPU, or --location for another region"
    )
    yield Check(f"region {location}", is_there, found, remedy)
    yield Check(f"quota in {location}", is_ok=True, found=_usage_text(usages))


def _subscription(session: Session) -> str:
    if session.stage.config_path.exists():
        return session.config().subscription_id
    fixed = session.stage.subscription or read_handover(session.root).subscription
    return fixed or str(as_object(session.az.run(account_show())).get("id"))


def _gpu_profile_type(session: Session) -> str:
    template = read_template(session.root / COMPILED)
    layers = (read_user_parameters(session.root), from_stage(session.stage))
    settings, _ = merge_known(layers, template.names)
    values = {setting.name: setting.value for setting in settings.values}
    return str(effective_values(values, template)["gpuProfileType"])


def _gpu_names(names: list[str]) -> str:
    return ", ".join(name for name in names if "GPU" in name or name.startswith("NC")) or "none"


def _usage_text(usages: Json) -> str:
    rows = []
    for item in map(as_object, usages if isinstance(usages, list) else []):
        name = str(as_object(item.get("name")).get("value"))
        if "gpu" in name.casefold() or "Environment" in name:
            rows.append(f"{name} {item.get('currentValue', item.get('usage'))} of {item.get('limit')}")
    return ", ".join(rows) or "Azure lists none; a quota of serverless GPUs shows only on an environment"


def _check_text(check: Check) -> str:
    line = f"{'ok     ' if check.is_ok else 'MISSING'} {check.name}: {check.found}"
    return f"{line}\n        {check.remedy}" if check.remedy else line
