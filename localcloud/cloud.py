"""Assemble the parts of the local cloud, and handle requests to its management plane.

This is the local cloud without HTTP: `server` passes requests to it, and so do tests.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from localcloud.arm.authorization import Authorization, action_of
from localcloud.arm.governance import Governance
from localcloud.arm.identity import Tokens, load_identity
from localcloud.arm.insights import Insights, WorkspaceKind
from localcloud.arm.operations import Operations
from localcloud.arm.requests import ArmRequest, ArmResponse
from localcloud.arm.resource_routes import ResourceRoutes
from localcloud.arm.resources import Resources
from localcloud.arm.router import Router
from localcloud.arm.storage import AccountKind, FileServiceKind, ShareKind, Storage
from localcloud.arm.store import Store
from localcloud.arm.subscriptions import Subscriptions
from localcloud.container_apps.app_operations import Apps
from localcloud.container_apps.apps import AppKind
from localcloud.container_apps.environment_operations import Environments
from localcloud.container_apps.environments import EnvironmentKind, EnvironmentStorageKind
from localcloud.container_apps.jobs.executions import JobExecutions
from localcloud.container_apps.jobs.kind import JobKind
from localcloud.container_apps.jobs.operations import Jobs
from localcloud.container_apps.log_streams import LogStreams
from localcloud.container_apps.revisions import Revisions
from localcloud.container_apps.volumes import Volumes
from localcloud.deployments.deployments import Deployments
from localcloud.errors import AzureError
from localcloud.files import FileService
from localcloud.runtime import ContainerHost

if TYPE_CHECKING:
    from pathlib import Path

LOGGER: Final = logging.getLogger(__name__)


class Cloud:
    """One local cloud.

    Args:
        state: Its directory.
        base_url: The address of its listener, without a trailing slash.
        host: Runs the containers; None for the real one, below `state`.
    """

    def __init__(self, state: Path, base_url: str, host: ContainerHost | None = None) -> None:
        self.store = Store(state / "cloud.db")
        self.identity = load_identity(self.store)
        self.tokens = Tokens(self.identity)
        self.base_url = base_url
        self._operations = Operations()
        governance = Governance(state / "subscription.json", self.store, self.identity)
        self._governance = governance
        self.resources = Resources(self.store, self._operations, governance)
        is_taken = governance.is_account_name_taken
        storage, insights = Storage(self.resources, is_taken), Insights(self.resources)
        self.files = FileService(state / "files", storage.account_keys)
        self.host = host or ContainerHost(state / "runtime")
        volumes = Volumes(self.resources, self.files, storage.account_keys)
        self._revisions = Revisions(self.store, self.resources, self.host, volumes)
        runner = self.host.executions
        self.job_executions = JobExecutions(self.store, self.resources, runner, volumes)
        self._app_kind = AppKind(
            self.resources,
            self._operations,
            self.host,
            self._revisions,
            self._get_base_url,
            governance.limit,
            self.identity.tenant_id,
        )
        self.resources.register(
            (
                AccountKind(self.resources, self.files, self._get_base_url, is_taken),
                FileServiceKind(),
                ShareKind(self.files),
                WorkspaceKind(),
                EnvironmentKind(self._get_base_url, governance.limit),
                EnvironmentStorageKind(),
                self._app_kind,
                JobKind(self._operations, self.job_executions, self._get_base_url, self.identity.tenant_id),
            )
        )
        self._deployments = Deployments(self.store, self.resources, self._operations, self.identity.tenant_id)
        self._router = Router()
        for part in (
            Subscriptions(
                self.identity,
                self.store,
                self.resources,
                self._operations,
                self._deployments.delete_group,
                governance,
            ),
            ResourceRoutes(self.resources, self._operations),
            self._deployments,
            storage,
            insights,
            Authorization(governance),
            Environments(self.resources, governance.limit),
            Apps(self.resources, self.host, self._revisions, self.tokens),
            LogStreams(self.resources, self.host, self._revisions, self.tokens),
            Jobs(self.resources, self.job_executions, runner, self.tokens),
        ):
            part.routes(self._router)

    async def open(self) -> None:
        """Start again what was running when the local cloud was stopped or killed."""
        self._deployments.fail_interrupted()
        await self._app_kind.restore()
        await self.job_executions.open()

    async def close(self) -> None:
        """Stop everything, and wait until it has stopped."""
        await self._operations.close()
        await self._revisions.close()
        await self.job_executions.close()
        await self.host.close()
        self.store.close()

    async def handle(self, request: ArmRequest) -> ArmResponse:
        """Handle a request; errors are responses too."""
        request_id = str(uuid.uuid4())
        headers = {"x-ms-request-id": request_id, "x-ms-correlation-request-id": request_id}
        try:
            response = await self._dispatch(request)
        except AzureError as error:
            return ArmResponse(error.status, error.to_json(), headers | {"x-ms-failure-cause": "gateway"})
        except Exception as error:
            LOGGER.exception("%s %s failed", request.method, request.url_path)
            bug = AzureError(500, "InternalServerError", f"{type(error).__name__}: {error}")
            return ArmResponse(500, bug.to_json(), headers)
        return replace(response, headers={**headers, **response.headers})

    async def _dispatch(self, request: ArmRequest) -> ArmResponse:
        try:
            route = self._router.find(request)
        except AzureError:
            # Unauthenticated callers must not learn which routes exist.
            self.tokens.verify(request.token, self.base_url)
            raise
        if not route.has_own_auth:
            self.tokens.verify(request.token, self.base_url)
        requested = request.path.subscription
        if requested is not None and requested.lower() != self.identity.subscription_id:
            message = f"The subscription '{requested}' could not be found."
            raise AzureError(404, "SubscriptionNotFound", message)
        action = None if route.has_own_auth else action_of(request)
        if action is not None:
            self._governance.check_allowed(action, request.url_path)
        return await route.handler(request)

    def _get_base_url(self) -> str:
        return self.base_url
