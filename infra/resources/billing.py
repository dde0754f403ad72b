"""Say what Azure bills: for a resource of any type, and for an app and its environment as they are now. Pure.

Prices are left out: they differ by region and agreement.

Source: "Billing in Azure Container Apps", "Azure Files pricing", "Azure Monitor Logs cost calculations".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from infra.az.app import is_stopped
from infra.az.limits import CONSUMPTION
from infra.document import Json, as_object, as_objects, object_at
from infra.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping

STORED_DATA: Final = "the stored data and its transactions"
LOGS: Final = "ingested logs, and their retention"
REPLICAS: Final = "its replicas while they run"
_RATES: Final = {
    "microsoft.app/containerapps": REPLICAS,
    "microsoft.app/jobs": "its executions while they run",
    "microsoft.app/managedenvironments": "nodes of dedicated workload profiles, and the management of these",
    "microsoft.operationalinsights/workspaces": LOGS,
    "microsoft.storage/storageaccounts": STORED_DATA,
}
_FREE: Final = frozenset(
    {"microsoft.insights/actiongroups", "microsoft.managedidentity/userassignedidentities"}
)


@dataclass(frozen=True, slots=True)
class Bill:
    """Something that Azure bills.

    Attributes:
        what: The resource.
        how: What the bill depends on.
        is_running: Whether it is billed now.
    """

    what: str
    how: str
    is_running: bool = True

    def to_json(self) -> dict[str, object]:
        """Return the bill as JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the bill as one line."""
        return f"{self.what}: {self.how}"


def resource_bill(resource_type: str) -> str:
    """Return what a resource of some type is billed for; empty if it is free."""
    known = resource_type.casefold()
    return "" if known in _FREE else _RATES.get(known, "depends on its type")


def find_environment(listed: Json, app: Mapping[str, Json]) -> dict[str, Json]:
    """Return the environment of an app from those that az lists; empty if it is not among them."""
    wanted = str(as_object(app.get("properties")).get("environmentId")).casefold()
    environments = as_objects(listed)
    return next((each for each in environments if str(each.get("id")).casefold() == wanted), {})


def app_bills(
    app: Mapping[str, Json], environment: Mapping[str, Json], replicas: int, account: str
) -> tuple[Bill, ...]:
    """Return what a stage's resources are billed for now.

    Args:
        app: The app as az shows it.
        environment: Its environment, likewise; empty if it could not be read.
        replicas: The number of replicas that run.
        account: The name of the storage account.
    """
    properties = as_object(app.get("properties"))
    name = str(properties.get("workloadProfileName") or CONSUMPTION)
    profile = next((each for each in _profiles(environment) if each.get("name") == name), {})
    type_ = str(profile.get("workloadProfileType") or (name if name == CONSUMPTION else ""))
    return (
        _replica_bill(app, name, type_, replicas),
        *_environment_bills(environment),
        Bill(f"storage account {account}", STORED_DATA),
        Bill("workspace of the environment", LOGS),
    )


def _replica_bill(app: Mapping[str, Json], profile: str, type_: str, replicas: int) -> Bill:
    what = f"app {app.get('name')}"
    if is_stopped(app):
        return Bill(what, "nothing, it is paused", is_running=False)
    if not replicas:
        return Bill(what, "nothing now, no replica runs", is_running=False)
    shown = f"{profile} ({type_})" if type_ and type_ != profile else profile
    if type_.startswith(CONSUMPTION):
        return Bill(what, f"{count(replicas, 'replica')} on {shown}, by the second")
    if not type_:
        return Bill(what, f"{count(replicas, 'replica')} on workload profile {shown}")
    return Bill(what, f"{count(replicas, 'replica')} on {shown}, by the node while it runs")


def _environment_bills(environment: Mapping[str, Json]) -> tuple[Bill, ...]:
    dedicated = [
        each
        for each in _profiles(environment)
        if not str(each.get("workloadProfileType")).startswith(CONSUMPTION)
    ]
    if not dedicated:
        return ()
    what = f"environment {environment.get('name')}"
    names = ", ".join(str(each.get("name")) for each in dedicated)
    always = [(str(each.get("name")), _number(each.get("minimumCount"))) for each in dedicated]
    return (
        Bill(what, f"the management of dedicated profiles ({names}) in use"),
        *(
            Bill(what, f"{count(nodes, 'node')} of {name}, also without replicas")
            for name, nodes in always
            if nodes
        ),
    )


def _profiles(environment: Mapping[str, Json]) -> list[dict[str, Json]]:
    return as_objects(object_at(environment, "properties").get("workloadProfiles"))


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0
