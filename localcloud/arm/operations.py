"""Long-running operations: work in the background that clients poll.

Not emulated: operations do not survive a restart of the daemon; a poll of an old one is 404.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.requests import ArmResponse, Json
from localcloud.clock import utc_now
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

# Azure's clients wait 30 s between polls without this header, and ignore the value 0.
RETRY_AFTER: Final = {"Retry-After": "1"}
_MAX_OPERATIONS: Final = 500

LOGGER: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Operation:
    """A long-running operation on a resource, with its status and its result."""

    id: str
    resource_id: str
    started: datetime
    task: asyncio.Task[None]
    status: str = "InProgress"
    error: AzureError | None = None
    ended: datetime | None = None
    result: Callable[[], ArmResponse] | None = None

    @property
    def is_running(self) -> bool:
        """Return whether it has not ended."""
        return self.status == "InProgress"

    async def wait(self) -> None:
        """Wait for its end.

        Raises:
            AzureError: The error that it failed with.
        """
        await asyncio.wait([self.task])
        if self.error is not None:
            raise self.error

    def status_body(self) -> Json:
        """Return the body of an Azure-AsyncOperation poll."""
        body: Json = {"id": self.id, "name": self.id, "status": self.status}
        body["startTime"] = self.started.isoformat()
        if self.ended is not None:
            body["endTime"] = self.ended.isoformat()
        if self.error is not None:
            body.update(self.error.to_json())
        return body


class Operations:
    """The operations since the start of the daemon; old ones are dropped."""

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}

    def start(
        self,
        resource_id: str,
        work: Coroutine[Any, Any, None],
        result: Callable[[], ArmResponse] | None = None,
    ) -> Operation:
        """Start `work` in the background; `result` builds the response to a poll after it has succeeded."""
        operation_id = str(uuid.uuid4())
        task = asyncio.create_task(self._perform(operation_id, work))
        operation = Operation(operation_id, resource_id, utc_now(), task, result=result)
        self._operations[operation_id] = operation
        self._drop_old()
        return operation

    def get(self, operation_id: str) -> Operation:
        """Return an operation.

        Raises:
            AzureError: 404 `OperationNotFound`.
        """
        found = self._operations.get(operation_id)
        if found is None:
            message = f"The operation '{operation_id}' was not found; it may have ended before a restart."
            raise AzureError(404, "OperationNotFound", message)
        return found

    def running(self, resource_id: str) -> Operation | None:
        """Return the operation that runs on a resource, or None."""
        key = resource_id.lower()
        for operation in self._operations.values():
            if operation.is_running and operation.resource_id.lower() == key:
                return operation
        return None

    async def close(self) -> None:
        """Cancel the running operations, and wait until they have ended."""
        tasks = [operation.task for operation in self._operations.values() if operation.is_running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _perform(self, operation_id: str, work: Coroutine[Any, Any, None]) -> None:
        status, error = "Failed", None
        try:
            await work
            status = "Succeeded"
        except AzureError as failure:
            error = failure
        except asyncio.CancelledError:
            status = "Canceled"
            raise
        except Exception as failure:
            LOGGER.exception("operation %s failed", operation_id)
            error = AzureError(500, "InternalServerError", f"{type(failure).__name__}: {failure}")
        finally:
            operation = self._operations[operation_id]
            operation.status, operation.error, operation.ended = status, error, utc_now()

    def _drop_old(self) -> None:
        ended = [key for key, operation in self._operations.items() if not operation.is_running]
        for key in ended[: max(0, len(self._operations) - _MAX_OPERATIONS)]:
            del self._operations[key]


def status_response(operation: Operation) -> ArmResponse:
    """Return the response to a poll of `Azure-AsyncOperation`."""
    return ArmResponse(200, operation.status_body(), RETRY_AFTER)


def result_response(operation: Operation) -> ArmResponse:
    """Return the response to a poll of `Location`: 202 while it runs, then its result or its error."""
    if operation.is_running:
        return ArmResponse(202, None, RETRY_AFTER)
    if operation.error is not None:
        return ArmResponse(operation.error.status, operation.error.to_json())
    return ArmResponse(204) if operation.result is None else operation.result()
