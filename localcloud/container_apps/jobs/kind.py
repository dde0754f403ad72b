"""The resource type of jobs: what is valid, Azure's defaults, and what readers see."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from localcloud.arm.regions import DISPLAY_NAMES
from localcloud.arm.resource_kinds import Change, Resource, ResourceKind, ResourceLookup
from localcloud.container_apps.defaults import job_with_defaults, secret_values
from localcloud.container_apps.identities import identity_errors, shown_identity
from localcloud.container_apps.jobs.rules import job_errors
from localcloud.container_apps.references import profile_name
from localcloud.container_apps.resource_types import JOBS, VERSIONS
from localcloud.container_apps.schema import schema_error
from localcloud.errors import AzureError, not_emulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from localcloud.arm.operations import Operation, Operations
    from localcloud.arm.requests import Json
    from localcloud.container_apps.jobs.executions import JobExecutions
    from localcloud.specifications import Violation


class JobKind(ResourceKind):
    """A job of Container Apps."""

    type: ClassVar[str] = JOBS
    versions: ClassVar[tuple[str, ...]] = VERSIONS
    is_asynchronous: ClassVar[bool] = True

    def __init__(
        self,
        operations: Operations,
        executions: JobExecutions,
        base_url: Callable[[], str],
        tenant_id: str,
    ) -> None:
        self._operations = operations
        self._executions = executions
        self._base_url = base_url
        self._tenant_id = tenant_id

    def violation_error(self, change: Change, violation: Violation) -> AzureError:
        """Return Microsoft.App's error for a value that the specification rules out."""
        return schema_error("job", change, violation)

    def find_errors(
        self, change: Change, before: Resource | None, lookup: ResourceLookup
    ) -> Iterator[AzureError]:
        """Yield what Azure rejects, and what is not emulated."""
        name = change.path.name
        yield from job_errors(name, change.body, before, lookup)
        yield from identity_errors(change.body.get("identity") or {})
        if before is None and any(job.name == name for job in lookup.of_type(JOBS)):
            # The runtime knows jobs by name.
            yield not_emulated(f"a second job with the name '{name}', in another resource group")

    def build(self, change: Change, before: Resource | None, lookup: ResourceLookup) -> Resource:
        """Return the job with Azure's defaults; the values of its secrets are private."""
        stored = before.private if before else {}
        profile = profile_name(change.properties, lookup)
        after = self.skeleton(change, before)
        identity = shown_identity(after.id, change.body.get("identity"), self._tenant_id)
        values = secret_values(change.properties, stored.get("secrets", {}))
        return replace(
            after,
            top=after.top | {"identity": identity},
            properties=job_with_defaults(change.properties, profile),
            private={**stored, "secrets": values},
        )

    def show(self, resource: Resource) -> Json:
        """Return the properties with those that Azure computes."""
        running = self._operations.running(resource.id)
        return resource.properties | {
            "provisioningState": "InProgress" if running else "Succeeded",
            "outboundIpAddresses": ["127.0.0.1"],
            "eventStreamEndpoint": f"{self._base_url()}{stream_path(resource)}/eventstream",
        }

    def shown_location(self, resource: Resource) -> str | None:
        """Return the region's display name, as Microsoft.App does."""
        return DISPLAY_NAMES[resource.location or ""]

    async def remove(self, resource: Resource) -> None:
        """Stop the job's executions, and delete them."""
        await self._executions.delete_all(resource)

    def busy(self, resource: Resource, operation: Operation) -> AzureError:
        """Return the error of a change while `operation` runs."""
        message = (
            f"Cannot modify a job '{resource.name}' because there is an active provisioning operation in "
            f"progress. OperationId: '{operation.id}'"
        )
        return AzureError(409, "ContainerAppOperationInProgress", message)


def stream_path(job: Resource) -> str:
    """Return the path of a job's log streams, which has no provider."""
    return job.id.replace("/providers/Microsoft.App/jobs/", "/jobs/")
