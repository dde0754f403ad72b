"""Microsoft's own specification of the emulated resource types, as data, and the checks that follow from it.

`data/` has a JSON Schema for the body of each type, and the api-versions of each type. `catalogue` reads it,
`canonical` gives a body the specification's spelling, `validation` finds what the specification rules out.
Rules that only the platform enforces are with the resource types.

Source: Azure/azure-rest-api-specs (MIT licence, see `data/LICENSE`), as compiled into the types of the Bicep
CLI 0.49.2 (Azure/bicep-types-az); `trim` made the data from those.
"""

from localcloud.specifications.canonical import canonical_body
from localcloud.specifications.catalogue import known_versions, namespace_versions
from localcloud.specifications.validation import Violation, find_violations

__all__ = ["Violation", "canonical_body", "find_violations", "known_versions", "namespace_versions"]
