"""Open a stage: start its embedded Azure if it has one, sign az in, and return what the verbs need.

A local stage has its own az configuration under `.fjarr/`; the user's `~/.azure` is neither read nor
written. An azure stage uses the user's sign-in, and every command names its subscription.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
import sys
from dataclasses import astuple, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from infra.az.client import Az, az_environment
from infra.az.commands import MINIMUM_VERSION, Group, cloud_register, cloud_set, login, version
from infra.az.resource_manager import ResourceManager, config_folder, find_endpoint
from infra.clock import SystemClock
from infra.config.endpoint import InferenceConfig, read_config
from infra.config.stage import Stage, load_stage, load_stages
from infra.document import read_object, user_path, write_atomic
from infra.errors import ToolError, UsageError
from infra.operating_system import IS_WINDOWS
from infra.process import Command, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from infra.console import Console

CLOUD_TIMEOUT_S: Final = 330.0
"""Longer than the local cloud's own limit for a start, so that its message is seen."""

LOCAL_PACKAGES: Final = ("aiohttp", "trustme", "torch", "transformers", "peft", "gradio", "gguf")
"""Packages of the extra `local`, which the pipeline does not need."""

_DESCRIPTOR: Final = "cloud.json"
_STAMP: Final = "fjarr-signed-in"


@dataclass(frozen=True, slots=True)
class LocalCloud:
    """The connection data of a running embedded Azure.

    Attributes:
        resource_manager: The address of its resource manager, with a trailing slash.
        ca_bundle: The certificates to trust for its connections.
    """

    resource_manager: str
    ca_bundle: Path
    tenant_id: str
    client_id: str
    subscription_id: str
    cloud_name: str
    client_secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Return a digest of all attributes: when it changes, az must be signed in again."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """An opened stage.

    Attributes:
        root: The project's folder.
        stage: The stage.
        console: Shows progress.
        runner: Starts processes with the stage's environment.
        az: Runs az commands, signed in to the stage's cloud.
        ca_bundle: The certificates to trust for connections to the stage's cloud; None for the machine's own.
        local_cloud: The running embedded Azure of a local stage.
        is_connected: Whether the stage's cloud is reachable: False for an embedded one that is stopped.
    """

    root: Path
    stage: Stage
    console: Console
    runner: Runner
    az: Az
    ca_bundle: Path | None
    local_cloud: LocalCloud | None
    is_connected: bool = True

    @property
    def has_bicep(self) -> bool:
        """Return whether az can build Bicep here without downloading anything."""
        if shutil.which("bicep"):
            return True
        return not self.stage.is_local and (config_folder(os.environ) / "bin" / "bicep").exists()

    def require_cloud(self) -> None:
        """Check that the stage's cloud is reachable.

        Raises:
            UsageError: The stage's embedded Azure is stopped.
        """
        if not self.is_connected:
            hint = f"invoke up --stage {self.stage.name}"
            raise UsageError(f"the local cloud of stage {self.stage.name!r} is stopped", hint=hint)

    def config(self) -> InferenceConfig:
        """Read the config file, which says where the stage was provisioned.

        Raises:
            UsageError: The stage is not provisioned, or the file is invalid.
        """
        if not self.stage.config_path.exists():
            for name in running_stages(self.root):
                what = f"stage {self.stage.name} is not provisioned"
                raise UsageError(what, hint=f"stage {name} is up: add --stage {name}")
        return read_config(self.stage.config_path)

    def group(self) -> Group:
        """Return the resource group that the stage was provisioned in.

        Raises:
            UsageError: The stage is not provisioned, or the config file is invalid.
        """
        config = self.config()
        return Group(config.subscription_id, config.resource_group_name)


def open_session(
    root: Path, stage_name: str, console: Console, *, start_cloud: bool = True, needs_az: bool = True
) -> Session:
    """Open a stage for the verbs.

    Args:
        root: The project's folder.
        stage_name: The stage to open.
        console: Shows progress.
        start_cloud: Whether to start the embedded Azure of a local stage that does not run. If not, the
            session is not connected.
        needs_az: Whether to check az and to sign it in to a running embedded Azure. A stage can be stopped
            and diagnosed without az.

    Raises:
        UsageError: There is no such stage.
        ToolError: az or the embedded Azure cannot be started.
    """
    stage = load_stage(root, stage_name)
    if stage.is_local and IS_WINDOWS:
        what = f"stage {stage.name!r} runs a container's command with bash, which needs a Unix"
        raise UsageError(what, hint="use WSL 2, or deploy to a stage on Azure")
    if not stage.is_local:
        runner = Runner(az_environment(os.environ), root)
        az = Az(runner, console, _connector(find_endpoint(os.environ), None))
        session = Session(root, stage, console, runner, az, None, None)
        if start_cloud:
            _check_az(session)
        return session
    return _open_local(root, stage, console, start_cloud=start_cloud, needs_az=needs_az)


def with_mount(session: Session, folder: str | None) -> Session:
    """Return a session whose share is mounted at a folder of this machine; unchanged if there is none."""
    if folder is None:
        return session
    return replace(session, stage=replace(session.stage, mount=user_path(folder)))


def cloud_command(root: Path, stage: Stage, verb: str) -> Command:
    """Return the command that starts, stops or queries a stage's embedded Azure."""
    state = cloud_state(root, stage)
    return Command(
        (sys.executable, "-m", "localcloud", verb, "--state", str(state)), timeout_s=CLOUD_TIMEOUT_S
    )


def cloud_state(root: Path, stage: Stage) -> Path:
    """Return the folder that contains the whole state of a stage's embedded Azure."""
    return root / ".fjarr" / stage.name / "cloud"


def read_cloud(state: Path) -> LocalCloud | None:
    """Return the embedded Azure that runs with this state folder, or None if none is running.

    The descriptor of one that runs is whole. A damaged one is like none: a start writes it again.
    """
    try:
        document = read_object(state / _DESCRIPTOR)
    except UsageError:
        return None
    names = ("resource_manager", "tenant_id", "client_id", "client_secret", "subscription_id", "cloud_name")
    values = {name: str(document.get(name) or "") for name in (*names, "ca_bundle")}
    if not all(values.values()):
        return None
    cloud = LocalCloud(ca_bundle=Path(values.pop("ca_bundle")), **values)
    return cloud if _is_listening(cloud.resource_manager) else None


def running_stages(root: Path) -> tuple[str, ...]:
    """Return the names of the local stages that are provisioned and whose embedded Azure runs."""
    return tuple(
        stage.name
        for stage in load_stages(root)
        if stage.is_local and stage.config_path.exists() and read_cloud(cloud_state(root, stage))
    )


def local_environment(base: Mapping[str, str], config_dir: Path, ca_bundle: Path | None) -> dict[str, str]:
    """Return the environment for a stage on the embedded Azure.

    az reads its settings from variables that begin with AZURE_. All of those are removed, so that nothing of
    the user's own Azure is used.
    """
    kept = {name: value for name, value in base.items() if not name.startswith(("AZURE_", "ARM_"))}
    environment = az_environment(kept)
    environment.update(
        AZURE_CONFIG_DIR=str(config_dir),
        AZURE_CORE_INSTANCE_DISCOVERY="false",
        AZURE_CORE_COLLECT_TELEMETRY="false",
        AZURE_CORE_LOGIN_EXPERIENCE_V2="false",
        NO_PROXY="localhost,127.0.0.1",
        no_proxy="localhost,127.0.0.1",
    )
    if ca_bundle is not None:
        environment["REQUESTS_CA_BUNDLE"] = str(ca_bundle)
    return environment


def _open_local(root: Path, stage: Stage, console: Console, *, start_cloud: bool, needs_az: bool) -> Session:
    config_dir = stage.state_dir / "azure"
    cloud = read_cloud(cloud_state(root, stage))
    if cloud is None:
        if not start_cloud:
            runner = Runner(local_environment(os.environ, config_dir, None), root)
            return Session(root, stage, console, runner, Az(runner, console), None, None, is_connected=False)
        cloud = _start_cloud(root, stage, console, local_environment(os.environ, config_dir, None))
    runner = Runner(local_environment(os.environ, config_dir, cloud.ca_bundle), root)
    az = Az(runner, console, _connector(cloud.resource_manager, cloud.ca_bundle))
    session = Session(root, stage, console, runner, az, cloud.ca_bundle, cloud)
    if needs_az:
        _check_az(session)
        _sign_in(session, cloud, config_dir)
    return session


def _connector(
    endpoint: str | None, ca_bundle: Path | None
) -> Callable[[Callable[[str], str]], ResourceManager] | None:
    """Return what connects to Resource Manager once there is a way to get tokens."""
    if endpoint is None:
        return None
    return lambda get_token: ResourceManager(endpoint, ca_bundle, get_token, SystemClock())


def _start_cloud(root: Path, stage: Stage, console: Console, environment: Mapping[str, str]) -> LocalCloud:
    _check_local_packages(stage)
    with console.step("start the local cloud"):
        command = cloud_command(root, stage, "start")
        Runner(environment, root).check(command)
        cloud = read_cloud(cloud_state(root, stage))
        if cloud is None:
            raise ToolError("the local cloud was started but does not answer", command=command.line)
        return cloud


def _check_local_packages(stage: Stage) -> None:
    missing = [name for name in LOCAL_PACKAGES if find_spec(name) is None]
    if missing:
        raise ToolError(
            f"the stage {stage.name!r} runs on this machine, and its packages are not installed:"
            f" {', '.join(missing)}",
            hint="python3 install.py",
        )


def _sign_in(session: Session, cloud: LocalCloud, config_dir: Path) -> None:
    """Sign az in to the embedded Azure, unless it is signed in to this one already."""
    stamp = config_dir / _STAMP
    if _contains(stamp, cloud.fingerprint):
        return
    with session.console.step("sign az in to the local cloud"):
        shutil.rmtree(config_dir, ignore_errors=True)
        secret = config_dir / "client-secret"
        write_atomic(secret, cloud.client_secret, mode=0o600)
        session.az.run(cloud_register(cloud.cloud_name, cloud.resource_manager))
        session.az.run(cloud_set(cloud.cloud_name))
        session.az.run(login(cloud.client_id, secret, cloud.tenant_id))
        secret.unlink()
        write_atomic(stamp, cloud.fingerprint)


def _check_az(session: Session) -> None:
    """Check that az is new enough. The result is stored, because az takes a second to print its version.

    Raises:
        ToolError: az is not installed, or it is too old.
    """
    stamp = session.stage.state_dir / "az-checked"
    program = session.runner.resolve(version())
    identity = f"{shlex.join(program)} {Path(program[0]).stat().st_mtime_ns} {MINIMUM_VERSION}"
    if not _contains(stamp, identity):
        session.az.check_version()
        write_atomic(stamp, identity)


def _contains(stamp: Path, text: str) -> bool:
    """Return whether a file exists and has exactly this text."""
    return stamp.is_file() and stamp.read_bytes() == text.encode()


def _is_listening(address: str) -> bool:
    """Return whether a process listens at an address on this machine."""
    try:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=2):
            return True
    except (OSError, ValueError):  # nobody listens, or it is no address
        return False
