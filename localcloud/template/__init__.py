"""The template language of Azure Resource Manager: reads templates and evaluates them.

The tests compare its results with those of `bicep snapshot`, which is Azure's own evaluator. An unsupported
function or construct is an error that names it; nothing is passed through unevaluated.

Not emulated: nested deployments, references to key vaults, scopes other than the resource group, extensions
and asserts.
"""

from localcloud.template.deployment import Deployment
from localcloud.template.jsonc import load_deployment_body, load_template
from localcloud.template.model import PlannedResource, Runtime, Scope

__all__ = ["Deployment", "PlannedResource", "Runtime", "Scope", "load_deployment_body", "load_template"]
