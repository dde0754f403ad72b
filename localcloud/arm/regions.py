"""The regions of the local cloud, named as Azure names them, so that a template works on both.

Not emulated: what differs between regions (GPU types, zones, quotas). Every region has everything.
"""

from __future__ import annotations

from typing import Final

from localcloud.errors import AzureError

DISPLAY_NAMES: Final = {
    "australiaeast": "Australia East",
    "brazilsouth": "Brazil South",
    "canadacentral": "Canada Central",
    "centralus": "Central US",
    "eastus": "East US",
    "eastus2": "East US 2",
    "francecentral": "France Central",
    "germanywestcentral": "Germany West Central",
    "italynorth": "Italy North",
    "japaneast": "Japan East",
    "koreacentral": "Korea Central",
    "northcentralus": "North Central US",
    "northeurope": "North Europe",
    "norwayeast": "Norway East",
    "polandcentral": "Poland Central",
    "southcentralus": "South Central US",
    "southeastasia": "Southeast Asia",
    "spaincentral": "Spain Central",
    "swedencentral": "Sweden Central",
    "switzerlandnorth": "Switzerland North",
    "uksouth": "UK South",
    "westcentralus": "West Central US",
    "westeurope": "West Europe",
    "westus": "West US",
    "westus2": "West US 2",
    "westus3": "West US 3",
}


def region_name(location: str) -> str:
    """Return the name of `location`, which may be given by its display name."""
    return location.replace(" ", "").lower()


def checked_region(location: str, full_type: str) -> str:
    """Return the region's name.

    Raises:
        AzureError: 400 `LocationNotAvailableForResourceType` for a region that is not in the list.
    """
    name = region_name(location)
    if name in DISPLAY_NAMES:
        return name
    listed = ",".join(DISPLAY_NAMES)
    raise AzureError(
        400,
        "LocationNotAvailableForResourceType",
        f"The provided location '{location}' is not available for resource type '{full_type}'. "
        f"List of available regions for the resource type is '{listed}'.",
    )
