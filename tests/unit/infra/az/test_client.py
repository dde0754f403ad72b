"""The az client: its environment, and which versions of az it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.az.client import Az, az_environment
from infra.errors import ToolError
from infra.process import Runner
from infra.session import local_environment

if TYPE_CHECKING:
    from pathlib import Path

    from infra.process import Command


class OldAz(Az):
    def run(self, command: Command) -> dict[str, str]:  # type: ignore[override]  # narrower
        assert command.line == "az version --output json"
        return {"azure-cli": "2.30.1"}


def test_an_az_that_is_too_old_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"^error: az 2\.30\.1 is too old; 2\.75\.0 or newer is needed"):
        OldAz(Runner({}, tmp_path)).check_version()


def test_az_prints_plain_output_and_never_asks() -> None:
    environment = az_environment({"PATH": "/nowhere", "AZURE_CONFIG_DIR": "/home/me/.azure"})
    assert environment == {
        "PATH": "/nowhere",
        "AZURE_CONFIG_DIR": "/home/me/.azure",
        "AZ_INSTALLER": "PIP",
        "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
        "AZURE_CORE_NO_COLOR": "true",
        "AZURE_CORE_DISABLE_CONFIRM_PROMPT": "true",
        "AZURE_CORE_DISABLE_PROGRESS_BAR": "true",
        "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
        "PYTHONWARNINGS": "ignore",
        "PYTHONIOENCODING": "utf-8",
    }


def test_a_bicep_on_path_is_used_without_network_access(tmp_path: Path) -> None:
    bicep = tmp_path / "bicep"
    bicep.write_text("#!/bin/sh\n")
    bicep.chmod(0o755)
    environment = az_environment({"PATH": str(tmp_path)})
    assert environment["AZURE_BICEP_USE_BINARY_FROM_PATH"] == "true"
    assert environment["AZURE_BICEP_CHECK_VERSION"] == "false"


def test_nothing_of_the_users_azure_reaches_the_local_one(tmp_path: Path) -> None:
    users = {"PATH": "/bin", "AZURE_DEFAULTS_GROUP": "prod", "AZURE_CLIENT_SECRET": "x", "ARM_TENANT_ID": "y"}
    environment = local_environment(users, tmp_path / "azure", tmp_path / "ca.pem")
    assert not {"AZURE_DEFAULTS_GROUP", "AZURE_CLIENT_SECRET", "ARM_TENANT_ID"} & set(environment)
    assert environment["AZURE_CONFIG_DIR"] == str(tmp_path / "azure")
    assert environment["REQUESTS_CA_BUNDLE"] == str(tmp_path / "ca.pem")
    assert environment["AZURE_CORE_COLLECT_TELEMETRY"] == "false"
    assert environment["AZURE_CORE_INSTANCE_DISCOVERY"] == "false"
    assert environment["NO_PROXY"] == "localhost,127.0.0.1"


@pytest.mark.az
def test_the_real_az_has_a_version_that_will_do(tmp_path: Path) -> None:
    environment = local_environment(
        {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, tmp_path / "azure", None
    )
    assert Az(Runner(environment, tmp_path)).check_version().startswith("2.")
    assert not (tmp_path / ".azure").exists()
