"""The executions of jobs: start them by hand or by their schedule, record them, and keep their history."""

from __future__ import annotations

import asyncio
import logging
import secrets
import string
from typing import TYPE_CHECKING, Final

from localcloud.clock import Clock, utc_now
from localcloud.container_apps.defaults import job_with_defaults
from localcloud.container_apps.jobs.rules import override_errors
from localcloud.container_apps.jobs.schedule import Schedule
from localcloud.container_apps.references import default_domain
from localcloud.container_apps.resource_types import JOBS
from localcloud.container_apps.revision_spec import runtime_container
from localcloud.errors import AzureError
from localcloud.runtime import Executions, ExecutionSpec

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.arm.store import Store
    from localcloud.container_apps.volumes import Volumes

_KIND: Final = "execution"
_RUNNING: Final = "Running"
_SUFFIX_LENGTH: Final = 7
_MAX_HISTORY: Final = 100
_MINUTE_S: Final = 60
LOGGER: Final = logging.getLogger(__name__)


class JobExecutions:
    """The executions of every job.

    Args:
        store: Where they are recorded.
        resources: The jobs and their environments.
        runner: Runs them.
        volumes: The directories of their volumes.
    """

    def __init__(self, store: Store, resources: Resources, runner: Executions, volumes: Volumes) -> None:
        self._store = store
        self._resources = resources
        self._runner = runner
        self._volumes = volumes
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.Task[None] | None = None

    def of(self, job: Resource) -> list[Json]:
        """Return the executions of a job, newest first."""
        return self._store.under(_KIND, _key(job, ""))[::-1]

    def get(self, job: Resource, name: str) -> Json:
        """Return an execution.

        Raises:
            AzureError: 404 `JobExecutionNotFound`.
        """
        found = self._store.get(_KIND, _key(job, name))
        if found is None:
            message = f"The execution '{name}' of job '{job.name}' was not found."
            raise AzureError(404, "JobExecutionNotFound", message)
        return found

    def start(self, job: Resource, override: Json | None = None) -> Json:
        """Start an execution in the background, and return its record.

        Args:
            job: The job.
            override: A template whose containers replace values of the job's; None for the job's own.

        Raises:
            AzureError: 400 for containers that the rules of jobs reject.
        """
        template = job.properties["template"]
        if override is not None and override.get("containers"):
            template = _overridden(job, override["containers"])
        record = {
            "name": f"{job.name}-{_new_suffix()}",
            "status": _RUNNING,
            "startTime": utc_now().isoformat(),
            "endTime": None,
            "template": template,
        }
        spec = self._spec(job, record)
        self._store.put(_KIND, _key(job, record["name"]), record)
        self._drop_old(job)
        task = asyncio.create_task(self._follow(job, record, self._runner.run(spec)))
        self._tasks[record["name"]] = task
        task.add_done_callback(lambda _: self._tasks.pop(record["name"], None))
        return record

    async def stop(self, job: Resource, name: str) -> Json:
        """Stop an execution, and return its record when nothing of it is left."""
        record = self.get(job, name)
        task = self._tasks.get(record["name"])
        if task is not None:
            await self._runner.stop(record["name"])
            await asyncio.wait({task})
        return self.get(job, name)

    async def stop_all(self, job: Resource) -> list[Json]:
        """Stop the executions of a job that run, and return their records."""
        running = [record["name"] for record in self.of(job) if record["status"] == _RUNNING]
        return list(await asyncio.gather(*(self.stop(job, name) for name in running)))

    async def delete_all(self, job: Resource) -> None:
        """Stop the executions of a job, and delete their records and logs."""
        await self.stop_all(job)
        for record in self.of(job):
            self._store.delete(_KIND, _key(job, record["name"]))
        await self._runner.remove(job.name)

    async def open(self) -> None:
        """End the executions of an earlier daemon, and begin to follow the schedules."""
        jobs = self._resources.of_type(JOBS)
        interrupted = [(job, each) for job in jobs for each in self.of(job) if each["status"] == _RUNNING]
        if interrupted:
            # Their processes may still run, if that daemon was killed.
            await self._runner.recover()
        for job, record in interrupted:
            self._end(job, record, "Failed")
        self._timer = asyncio.create_task(self._follow_schedules(), name="schedules of jobs")

    async def close(self) -> None:
        """Stop to follow the schedules and the executions; the host stops the replicas."""
        tasks = [*self._tasks.values(), *([self._timer] if self._timer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def start_due(self, now: datetime) -> None:
        """Start the jobs that are due in the minute of `now` by their schedule."""
        for job in self._resources.of_type(JOBS):
            trigger = job.properties["configuration"]["scheduleTriggerConfig"]
            if trigger is not None and Schedule.parse(trigger["cronExpression"]).is_due(now):
                try:
                    self.start(job)
                except AzureError:
                    # A job that cannot start must not keep the others from starting.
                    LOGGER.exception("job %s could not be started by its schedule", job.name)

    async def _follow_schedules(self, clock: Clock = utc_now) -> None:
        while True:
            now = clock()
            await asyncio.sleep(_MINUTE_S - now.second - now.microsecond / 1e6)
            self.start_due(clock())

    async def _follow(self, job: Resource, record: Json, run: Coroutine[object, object, str]) -> None:
        try:
            status = await run
        except Exception:
            LOGGER.exception("execution %s could not be run", record["name"])
            status = "Failed"
        self._end(job, record, status)

    def _end(self, job: Resource, record: Json, status: str) -> None:
        ended = record | {"status": status, "endTime": utc_now().isoformat()}
        self._store.put(_KIND, _key(job, record["name"]), ended)

    def _spec(self, job: Resource, record: Json) -> ExecutionSpec:
        environment = self._resources.get(job.properties["environmentId"])
        configuration = job.properties["configuration"]
        trigger = configuration[f"{configuration['triggerType'].lower()}TriggerConfig"]
        volume = self._volumes.of(environment)
        return ExecutionSpec(
            job=job.name,
            name=record["name"],
            container=runtime_container(record["template"], job.private["secrets"], volume),
            parallelism=trigger["parallelism"],
            completions=trigger["replicaCompletionCount"],
            retry_limit=configuration["replicaRetryLimit"],
            timeout_s=configuration["replicaTimeout"],
            env_dns_suffix=default_domain(environment),
        )

    def _drop_old(self, job: Resource) -> None:
        ended = [record for record in self.of(job) if record["status"] != _RUNNING]
        for record in ended[_MAX_HISTORY:]:
            self._store.delete(_KIND, _key(job, record["name"]))


def _overridden(job: Resource, containers: list[Json]) -> Json:
    """Return the job's template with the values of other containers over those of its own.

    Source: the Azure CLI's `containerapp job start`, which leaves out what its flags do not name.
    """
    (own,) = job.properties["template"]["containers"]
    merged = [own | {name: value for name, value in each.items() if value is not None} for each in containers]
    for error in override_errors(job, merged):
        raise error
    template = job.properties["template"] | {"containers": merged}
    shown: Json = job_with_defaults(job.properties | {"template": template}, None)["template"]
    return shown


def _new_suffix() -> str:
    letters = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(letters) for _ in range(_SUFFIX_LENGTH))


def _key(job: Resource, name: str) -> str:
    return f"{job.id}/executions/{name}"
