"""A local cloud in this process, with a container host that records its calls and runs nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

from localcloud.arm.requests import ArmRequest, ArmResponse
from localcloud.arm.resource_ids import parse_path
from localcloud.cloud import Cloud
from localcloud.runtime import (
    ConsoleRecord,
    ContainerHost,
    ExecutionEnd,
    ExecutionSpec,
    IngressPolicy,
    ReplicaStatus,
    RevisionNotActiveError,
    RevisionSpec,
    RevisionState,
    SystemRecord,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BASE = "https://localhost:1"
APP_VERSION = "2025-07-01"
_LOOP_ITERATIONS = 50


@dataclass
class FakeExecutions:
    """Executions that run nothing; a test sets how each of them ends."""

    specs: dict[str, ExecutionSpec] = field(default_factory=dict)
    ends: dict[str, asyncio.Future[ExecutionEnd]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    recoveries: int = 0

    async def recover(self) -> None:
        self.recoveries += 1

    async def run(self, spec: ExecutionSpec) -> ExecutionEnd:
        self.specs[spec.name] = spec
        self.ends[spec.name] = asyncio.get_running_loop().create_future()
        return await self.ends[spec.name]

    async def stop(self, execution: str) -> None:
        self.ends[execution].set_result("Stopped")

    async def remove(self, job: str) -> None:
        self.removed.append(job)

    def logged_replicas(self, job: str, execution: str) -> tuple[str, ...]:
        del job
        return (f"{execution}-abcde",)

    def console_log(
        self, job: str, execution: str, replica: str, *, tail: int, follow: bool
    ) -> AsyncIterator[ConsoleRecord]:
        del follow
        if replica not in self.logged_replicas(job, execution):
            raise KeyError(replica)
        return _console(tail)

    def system_log(self, job: str, *, tail: int, follow: bool) -> AsyncIterator[SystemRecord]:
        del tail, follow
        return _system(job)


@dataclass
class FakeHost:
    """A container host that runs nothing; a test sets when a revision becomes ready."""

    specs: dict[str, RevisionSpec] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    restarts: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    policies: dict[str, IngressPolicy] = field(default_factory=dict)
    readiness: dict[str, asyncio.Event] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    executions: FakeExecutions = field(default_factory=FakeExecutions)

    def is_ready(self, revision: str) -> asyncio.Event:
        return self.readiness.setdefault(revision, asyncio.Event())

    async def start_app(self, app: str, port: int | None = None) -> int:
        if self.hold is not None:
            await self.hold.wait()
        return self.ports.setdefault(app, port or 20000 + len(self.ports))

    def set_ingress_policy(self, app: str, policy: IngressPolicy) -> None:
        self.policies[app] = policy

    async def stop_app_ingress(self, app: str) -> None:
        del self.ports[app]

    async def serve(self, app: str, revision: str) -> None:
        self.served[app] = revision

    async def run(self, spec: RevisionSpec) -> None:
        self.specs[spec.revision] = spec

    async def wait_ready(self, revision: str) -> None:
        await self.is_ready(revision).wait()
        if revision not in self.specs:
            raise RevisionNotActiveError(revision)

    async def restart(self, revision: str) -> None:
        self.restarts.append(revision)

    async def stop(self, revision: str) -> None:
        self.stopped.append(revision)
        self.specs.pop(revision, None)

    async def remove_app(self, app: str) -> None:
        self.removed.append(app)

    async def close(self) -> None:
        pass

    async def emit(self, app: str, revision: str, reason: str, message: str) -> None:
        del app, revision, message
        self.events.append(reason)

    def replicas(self, revision: str) -> tuple[ReplicaStatus, ...]:
        if revision not in self.specs:
            return ()
        name = f"{revision}-0123456789-abcde"
        created = datetime(2026, 1, 2, tzinfo=UTC)
        details = "Container started"
        status = ReplicaStatus(
            name,
            revision,
            "web",
            created,
            ready=True,
            started=True,
            restart_count=0,
            running_state="Running",
            details=details,
            exit_code=None,
            port=20500,
        )
        return (status,)

    def revision_state(self, revision: str) -> RevisionState:
        return RevisionState("Running", "Healthy", "") if revision in self.specs else _STOPPED

    def console_log(
        self, revision: str, replica: str, *, tail: int, follow: bool
    ) -> AsyncIterator[ConsoleRecord]:
        del follow
        if replica not in [found.name for found in self.replicas(revision)]:
            raise KeyError(replica)
        return _console(tail)

    def system_log(self, app: str, *, tail: int, follow: bool) -> AsyncIterator[SystemRecord]:
        del tail, follow
        return _system(app)


async def _console(tail: int) -> AsyncIterator[ConsoleRecord]:
    for number in range(tail):
        yield ConsoleRecord(datetime(2026, 1, 2, tzinfo=UTC), f"line {number}")


async def _system(app: str) -> AsyncIterator[SystemRecord]:
    yield SystemRecord(datetime(2026, 1, 2, tzinfo=UTC), "Normal", app, "", "", "ContainerStarted", "up")


_STOPPED = RevisionState("Stopped", "None", "")


@dataclass
class ArmClient:
    """A signed-in client of a local cloud in this process."""

    cloud: Cloud
    host: FakeHost
    token: str

    @property
    def subscription(self) -> str:
        return f"/subscriptions/{self.cloud.identity.subscription_id}"

    @property
    def group(self) -> str:
        return f"{self.subscription}/resourceGroups/rg"

    async def request(self, method: str, url: str, body: Any = None, token: str | None = "") -> ArmResponse:
        parts = urlsplit(url if url.startswith(("/", "http")) else f"{self.group}/{url}")
        query = {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
        text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        bearer = self.token if token == "" else token
        path = parse_path(parts.path)
        return await self.cloud.handle(ArmRequest(method, path, parts.path, query, text, BASE, bearer))

    async def poll(self, response: ArmResponse) -> ArmResponse:
        """Follow the operation that a response points to, as az does, and return its last response."""
        url = response.headers.get("Azure-AsyncOperation") or response.headers["Location"]
        await self.settle()
        return await self.request("GET", url)

    async def settle(self) -> None:
        """Let background work run as far as it can."""
        for _ in range(_LOOP_ITERATIONS):
            await asyncio.sleep(0)

    async def make_group(self) -> None:
        await self.request("PUT", f"{self.group}?api-version=2024-11-01", {"location": "swedencentral"})

    async def make_environment(self, **properties: Any) -> None:
        """Create an environment `env` with a share on it as the storage `share`."""
        await self.make_group()
        account = "providers/Microsoft.Storage/storageAccounts/acct"
        storage = "api-version=2025-08-01"
        body = {"location": "swedencentral", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}
        await self.request("PUT", f"{account}?{storage}", body)
        await self.request("PUT", f"{account}/fileServices/default/shares/data?{storage}", {"properties": {}})
        keys = await self.request("POST", f"{account}/listKeys?{storage}")
        profiles = [
            {"name": "Consumption", "workloadProfileType": "Consumption"},
            {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 2},
        ]
        environment = "providers/Microsoft.App/managedEnvironments/env"
        body = {"location": "swedencentral", "properties": {"workloadProfiles": profiles, **properties}}
        await self.request("PUT", f"{environment}?api-version={APP_VERSION}", body)
        share = {
            "accountName": "acct",
            "accountKey": keys.body["keys"][0]["value"],
            "shareName": "data",
            "accessMode": "ReadWrite",
        }
        body = {"properties": {"azureFile": share}}
        await self.request("PUT", f"{environment}/storages/share?api-version={APP_VERSION}", body)
        await self.settle()

    def app_body(self, **container: Any) -> dict[str, Any]:
        """Return the PUT of an app that mounts the share and has a secret."""
        return {
            "location": "swedencentral",
            "properties": {
                "environmentId": f"{self.group}/providers/Microsoft.App/managedEnvironments/env",
                "workloadProfileName": "Consumption",
                "configuration": {
                    "ingress": {"external": True, "targetPort": 7860},
                    "secrets": [{"name": "api-key", "value": "s3cret"}],
                },
                "template": {
                    "containers": [
                        {
                            "name": "web",
                            "image": "x",
                            "command": ["/bin/true"],
                            "env": [{"name": "KEY", "secretRef": "api-key"}, {"name": "A", "value": "b"}],
                            "resources": {"cpu": 0.5, "memory": "1Gi"},
                            "volumeMounts": [{"volumeName": "v", "mountPath": "/mount"}],
                            **container,
                        }
                    ],
                    "volumes": [{"name": "v", "storageType": "AzureFile", "storageName": "share"}],
                    "scale": {"minReplicas": 1, "maxReplicas": 1},
                },
            },
        }

    async def put_app(self, body: dict[str, Any], name: str = "app") -> ArmResponse:
        return await self.request("PUT", f"{self.app_path(name)}?api-version={APP_VERSION}", body)

    async def show_app(self) -> dict[str, Any]:
        response = await self.request("GET", f"{self.app_path()}?api-version={APP_VERSION}")
        return cast("dict[str, Any]", response.body)

    def app_path(self, name: str = "app") -> str:
        return f"{self.group}/providers/Microsoft.App/containerApps/{name}"

    async def make_app(self) -> dict[str, Any]:
        """Create the app in a complete environment, and make its first revision ready."""
        await self.make_environment()
        await self.put_app(self.app_body())
        await self.settle()
        shown = await self.show_app()
        self.host.is_ready(shown["properties"]["latestRevisionName"]).set()
        await self.settle()
        return await self.show_app()


def new_client(state: Path, host: FakeHost) -> ArmClient:
    """Return a client of a new local cloud on a state directory."""
    cloud = Cloud(state, BASE, cast("ContainerHost", host))
    token, _ = cloud.tokens.issue(BASE)
    return ArmClient(cloud, host, token)
