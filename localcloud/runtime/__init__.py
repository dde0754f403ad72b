"""Run container apps on this machine: replicas as process groups, probes, logs, and an ingress for each app.

`ContainerHost` is the whole of it; the rest of what is exported here are the values that it takes and gives.

What is like on Azure: probes decide what is started, restarted and reached; a container that ends is started
again after a back-off; a stop is SIGTERM, a grace, SIGKILL; a request may take 240 s; the words in the logs.
What is not: there is no image, no file system and no network of its own (a container's port is a loopback
port of its own, told in CONTAINER_APP_PORT; a mount is a symlink), no limit of CPU and memory, no scaling by
load, no init containers, and back-off is short.

It knows nothing of Azure's resources or of HTTP but for the ingress, and imports nothing of the local cloud
but its clock.
"""

from localcloud.runtime.host import ContainerHost
from localcloud.runtime.orphans import kill_orphans
from localcloud.runtime.spec import (
    BackOff,
    ConsoleRecord,
    Container,
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
    "Limits",
    "Probe",
    "ReplicaStatus",
    "RevisionNotActiveError",
    "RevisionSpec",
    "RevisionState",
    "SystemRecord",
    "kill_orphans",
]
