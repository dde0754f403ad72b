"""The operations of jobs that are more than create, read and delete, and their log streams.

Streams accept a job's own token only, see `getAuthToken`. `start` and `stop` respond with 200 and a body,
which the Azure CLI reads without waiting; `stop` responds when nothing of the execution is left.

Source: Microsoft.App REST API 2026-01-01, Jobs; the Azure CLI's source. The path of a replica's log stream
follows that of an app's: it is plausible, not quoted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import resource_id
from localcloud.container_apps.apps import listed_secrets
from localcloud.container_apps.log_streams import is_followed, stream_lines, tail_lines
from localcloud.container_apps.resource_types import JOBS, VERSIONS
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.identity import Tokens
    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.router import Router
    from localcloud.container_apps.jobs.executions import JobExecutions
    from localcloud.runtime import Executions


class Jobs:
    """The operations of jobs."""

    def __init__(
        self, resources: Resources, executions: JobExecutions, runner: Executions, tokens: Tokens
    ) -> None:
        self._resources = resources
        self._executions = executions
        self._runner = runner
        self._tokens = tokens

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        one = f"{JOBS}/{{}}"
        execution = f"{one}/executions/{{}}"
        for method, template, handler in (
            ("POST", f"{one}/start", self.start),
            ("POST", f"{one}/stop", self.stop_all),
            ("POST", f"{one}/stop/{{}}", self.stop),
            ("POST", f"{one}/listSecrets", self.list_secrets),
            ("POST", f"{one}/getAuthToken", self.auth_token),
            ("GET", f"{one}/executions", self.list_executions),
            ("GET", execution, self.show_execution),
            ("GET", f"{execution}/replicas", self.list_replicas),
        ):
            router.add(method, "group", template, handler, VERSIONS)
        # Paths of streams have no provider, and `parse_path` takes such paths for those of Resource Manager.
        plain = one.replace("Microsoft.App", "Microsoft.Resources")
        stream = f"{plain}/executions/{{}}/replicas/{{}}/containers/{{}}/logstream"
        router.add("GET", "group", stream, self.console, (), has_own_auth=True)
        router.add("GET", "group", f"{plain}/eventstream", self.events, (), has_own_auth=True)

    async def start(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job start`: start an execution, with other containers if the body has some."""
        job = self._job(request)
        record = self._executions.start(job, request.json())
        return ArmResponse(200, {"name": record["name"], "id": _execution_id(job, record)})

    async def stop(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job stop` of one execution."""
        job = self._job(request)
        record = await self._executions.stop(job, request.path.names[1])
        return ArmResponse(200, _document(job, record))

    async def stop_all(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job stop`: stop every execution that runs, and return them."""
        job = self._job(request)
        stopped = await self._executions.stop_all(job)
        return ArmResponse(200, {"value": [_document(job, record) for record in stopped]})

    async def list_secrets(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job secret list --show-values` and `secret show`."""
        return ArmResponse(200, listed_secrets(self._job(request)))

    async def auth_token(self, request: ArmRequest) -> ArmResponse:
        """Handle `getAuthToken`: return a token that is valid for the job's log streams only."""
        job = self._job(request)
        token, expires = self._tokens.issue(job.id.lower(), {"iss": "AzureContainerApps"})
        body = {
            "id": job.id,
            "name": job.name,
            "type": "Microsoft.App/jobs/accesstoken",
            "location": DISPLAY_NAMES[job.location or ""],
            "properties": {"token": token, "expires": expires.isoformat()},
        }
        return ArmResponse(200, body)

    async def list_executions(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job execution list`."""
        job = self._job(request)
        return ArmResponse(200, {"value": [_document(job, record) for record in self._executions.of(job)]})

    async def show_execution(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job execution show`."""
        job = self._job(request)
        return ArmResponse(200, _document(job, self._executions.get(job, request.path.names[1])))

    async def list_replicas(self, request: ArmRequest) -> ArmResponse:
        """Handle `containerapp job replica list`: an execution's replicas, as long as their logs are kept."""
        job = self._job(request)
        record = self._executions.get(job, request.path.names[1])
        root = str(self._resources.shown(job)["properties"]["eventStreamEndpoint"]).removesuffix(
            "/eventstream"
        )
        container = record["template"]["containers"][0]["name"]
        value = []
        for name in self._runner.logged_replicas(job.name, record["name"]):
            below = f"/executions/{record['name']}/replicas/{name}"
            stream = f"{root}{below}/containers/{container}/logstream"
            containers = [{"name": container, "logStreamEndpoint": stream}]
            value.append({"id": f"{job.id}{below}", "name": name, "properties": {"containers": containers}})
        return ArmResponse(200, {"value": value})

    async def console(self, request: ArmRequest) -> ArmResponse:
        """Handle a log stream: a replica's last console lines, with `follow` new ones too."""
        job = self._job_of_stream(request)
        execution, replica, container = request.path.names[1:]
        record = self._executions.get(job, execution)
        if record["template"]["containers"][0]["name"] != container:
            message = f"The container '{container}' of replica '{replica}' was not found."
            raise AzureError(404, "ContainerNotFound", message)
        tail, follow = tail_lines(request), is_followed(request)
        try:
            records = self._runner.console_log(job.name, record["name"], replica, tail=tail, follow=follow)
        except KeyError:
            message = f"The replica '{replica}' of execution '{execution}' was not found."
            raise AzureError(404, "ReplicaNotFound", message) from None
        return ArmResponse(200, stream=stream_lines(request, (), records))

    async def events(self, request: ArmRequest) -> ArmResponse:
        """Handle the stream of a job's events."""
        job = self._job_of_stream(request)
        tail, follow = tail_lines(request), is_followed(request)
        records = self._runner.system_log(job.name, tail=tail, follow=follow)
        return ArmResponse(200, stream=stream_lines(request, (), records))

    def _job(self, request: ArmRequest) -> Resource:
        names = request.path.names[:1]
        return self._resources.get(resource_id(request.path.subscription or "", request.group, JOBS, names))

    def _job_of_stream(self, request: ArmRequest) -> Resource:
        job = self._job(request)
        self._tokens.verify(request.token, job.id.lower())
        return job


def _execution_id(job: Resource, record: Json) -> str:
    return f"{job.id}/executions/{record['name']}"


def _document(job: Resource, record: Json) -> Json:
    template = {name: record["template"][name] for name in ("containers", "initContainers")}
    return {
        "id": _execution_id(job, record),
        "name": record["name"],
        "type": f"{JOBS}/executions",
        "properties": {
            "status": record["status"],
            "startTime": record["startTime"],
            "endTime": record["endTime"],
            "template": template,
        },
    }
