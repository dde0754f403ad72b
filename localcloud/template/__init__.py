"""The template language of Azure Resource Manager: it reads templates and evaluates them, no more.

`bicep snapshot`, which is Azure's own evaluator, is the judge of this one. What it does not know, a function
or a construct, is an error that names it, never passed through. Nested deployments, references to key
vaults, scopes other than the resource group, extensions and asserts are not emulated.
"""

from localcloud.template.deployment import Deployment
from localcloud.template.jsonc import load_deployment_body, load_template
from localcloud.template.model import PlannedResource, Runtime, Scope

__all__ = ["Deployment", "PlannedResource", "Runtime", "Scope", "load_deployment_body", "load_template"]
