"""Container apps and jobs on this machine: replicas as process groups, with probes, logs and ingresses.

`ContainerHost` is the interface; the other exports are the values that it takes and returns.

As on Azure: probes decide which containers are restarted and which receive requests; a container that ends is
started again after a back-off; a stop is SIGTERM, a grace period, SIGKILL; a request may take 240 s; the logs
use Azure's wording.

Not emulated: images; a file system and a network for each container (a container gets a loopback port of its
own, in CONTAINER_APP_PORT, and a mount is a symlink); limits of CPU and memory; scaling by load; init
containers. The back-off is shorter than Azure's.

This package must not know Azure's resources. Of the rest of the local cloud it imports only the clock.
"""

from localcloud.runtime.executions import Executions
from localcloud.runtime.host import ContainerHost
from localcloud.runtime.orphans import kill_orphans
from localcloud.runtime.spec import (
    BackOff,
    ConsoleRecord,
    Container,
    CorsPolicy,
    ExecutionEnd,
    ExecutionSpec,
    IngressPolicy,
    Limits,
    Probe,
    ReplicaStatus,
    RevisionNotActiveError,
    RevisionSpec,
    RevisionState,
    SystemRecord,
)

__all__ = [
    "BackOff",
    "ConsoleRecord",
    "Container",
    "ContainerHost",
    "CorsPolicy",
    "ExecutionEnd",
    "ExecutionSpec",
    "Executions",
    "IngressPolicy",
    "Limits",
    "Probe",
    "ReplicaStatus",
    "RevisionNotActiveError",
    "RevisionSpec",
    "RevisionState",
    "SystemRecord",
    "kill_orphans",
]
