"""What to do next about an error of Azure, by its innermost code. Pure.

A hint names the subscription, the group or the policy that the error is about, so that its commands can be
pasted as they are.

Source for the codes and their meaning: "Troubleshoot common Azure deployment errors"; Azure's messages.
"""

from __future__ import annotations

import itertools
import re
import shlex
from typing import Final

_PARAMETERS: Final = "infra/provision/inference.parameters.json"
_ASK_FOR_QUOTA: Final = "ask for quota in the Azure portal (Quotas, provider Azure Container Apps)"
_LESS_OR_MORE: Final = f"lower maximumInstanceCount or maxReplicas in {_PARAMETERS}, or {_ASK_FOR_QUOTA}"
_OTHER_ENVIRONMENT: Final = (
    f"set acaEnvironmentName in {_PARAMETERS} to an environment that you have, or location to another region"
)
_WAIT: Final = "another change is still running; wait a minute and try again"
_SIGN_IN: Final = "az login"
_ROLE: Final = (
    "ask for a role that allows this, such as Contributor on the resource group, or sign in with an account "
    "that has it (az login)"
)
_POLICY: Final = "ask the owner of the policy for an exemption of the resource group"
_OTHER_ACCOUNT_NAME: Final = f"the name is taken; set storageAccountName in {_PARAMETERS}"
_ENABLE: Final = (
    "the subscription is disabled: enable it in the Azure portal (Subscriptions), or add --subscription"
)

_HINTS: Final[dict[str, str]] = {
    "AccountNameInvalid": "set storageAccountName to 3 to 24 lower-case letters and digits",
    "AuthorizationFailed": _ROLE,
    "ContainerAppOperationInProgress": _WAIT,
    "DeploymentActive": "another deployment is still running; invoke provision watches it",
    "DeploymentQuotaExceeded": "delete old deployments: az deployment group list{in_group} lists them",
    "ExpiredAuthenticationToken": _SIGN_IN,
    "InvalidAuthenticationToken": _SIGN_IN,
    "InvalidAuthenticationTokenTenant": "sign in to the tenant of the subscription: az login --tenant TENANT",
    "InvalidResourceGroupLocation": "leave --location out, or give the region that the group is in",
    "InvalidResourceLocation": f"set location in {_PARAMETERS} to where the resource is",
    "KeyBasedAuthenticationNotPermitted": "the storage account must allow shared keys: az storage account "
    "update --allow-shared-key-access true --name ACCOUNT{in_group}",
    "LinkedAuthorizationFailed": _ROLE,
    "LocationNotAvailableForResourceType": f"set location in {_PARAMETERS} to a region that has it",
    "ManagedEnvironmentNotReadyForAppCreation": "the environment is being created; try again in a minute",
    "MaxNumberOfGlobalEnvironmentsInSubExceeded": _OTHER_ENVIRONMENT.partition(", or")[0],
    "MaxNumberOfRegionalEnvironmentsInSubExceeded": _OTHER_ENVIRONMENT,
    "MaxRegionalQuotaExceeded": _LESS_OR_MORE,
    "MissingSubscriptionRegistration": "register the resource provider that the message names: az provider "
    "register --wait{in_subscription} --namespace NAMESPACE",
    "NoRegisteredProviderFound": f"set location in {_PARAMETERS} to a region that the message names",
    "QuotaExceeded": _LESS_OR_MORE,
    "ReadOnlyDisabledSubscription": _ENABLE,
    "RequestDisallowedByAzure": f"set location in {_PARAMETERS} to a region that your subscription may use",
    "RequestDisallowedByPolicy": _POLICY,
    "ReservedResourceName": "choose another name: Azure reserves this one",
    "ResourceGroupBeingDeleted": "the group is being deleted; wait until it is gone and try again",
    "RevisionNotActive": "the app does not run; if the stage is paused: invoke resume",
    "ScopeLocked": "a lock forbids it: az lock list{in_group} shows it",
    "SkuNotAvailable": "choose another GPU (--set gpu=NAME), or another region (--location)",
    "StorageAccountAlreadyExists": _OTHER_ACCOUNT_NAME,
    "StorageAccountAlreadyTaken": _OTHER_ACCOUNT_NAME,
    "StorageAccountInAnotherResourceGroup": _OTHER_ACCOUNT_NAME,
    "SubscriptionDisabled": _ENABLE,
    "SubscriptionNotFound": "az login; az account list shows the subscriptions that you can see",
    "SubscriptionNotRegistered": "register the resource provider that the message names: az provider "
    "register --wait{in_subscription} --namespace NAMESPACE",
    "SubscriptionQuotaExceeded": _LESS_OR_MORE,
    "WorkloadProfileNotFound": f"set gpuProfileName in {_PARAMETERS} to a profile that the environment has",
}

_NAMESPACE: Final = re.compile(r"namespace '(?P<namespace>[\w.]+)'", re.IGNORECASE)
_PRINCIPAL: Final = re.compile(
    r"object id '(?P<principal>[\w-]+)'.* over scope '(?P<scope>/[^']+)'", re.IGNORECASE | re.DOTALL
)
_ASSIGNMENT: Final = re.compile(r'"policyAssignment"\s*:\s*\{[^}]*"id"\s*:\s*"(?P<assignment>[^"]+)"')


def hint_for(code: str, message: str, command: str | None = None) -> str | None:
    """Return what to do about an error; None if nothing is known.

    Args:
        code: The innermost code.
        message: Its message.
        command: The command line that failed, from which the subscription and the group are taken.
    """
    flags = _flags(command)
    subscription, group = flags.get("--subscription"), flags.get("--resource-group")
    in_subscription = f" --subscription {subscription}" if subscription else ""
    in_group = f" --resource-group {group}{in_subscription}" if group else in_subscription
    hint = _specific(code, message, in_subscription, in_group) or _HINTS.get(code)
    return None if hint is None else hint.format(in_subscription=in_subscription, in_group=in_group)


def _specific(code: str, message: str, in_subscription: str, in_group: str) -> str | None:
    """Return a hint with what the message names, or None if it does not name it."""
    if code in {"MissingSubscriptionRegistration", "SubscriptionNotRegistered"}:
        found = _NAMESPACE.search(message)
        return found and f"az provider register --namespace {found['namespace']}{in_subscription} --wait"
    if code in {"AuthorizationFailed", "LinkedAuthorizationFailed"}:
        found = _PRINCIPAL.search(message)
        return found and (
            "an owner can grant it: az role assignment create --role Contributor "
            f"--assignee {found['principal']} --scope {_group_of(found['scope'])}"
        )
    if code == "RequestDisallowedByPolicy":
        found = _ASSIGNMENT.search(message)
        return found and (
            f"{_POLICY}: az policy exemption create --name fjarr --exemption-category Waiver "
            f"--policy-assignment {found['assignment']}{in_group}"
        )
    return None


def _group_of(scope: str) -> str:
    """Return the scope of the resource group that a resource is in, or the scope itself."""
    found = re.match(r"/subscriptions/[^/]+/resourceGroups/[^/]+", scope, re.IGNORECASE)
    return found.group() if found else scope


def _flags(command: str | None) -> dict[str, str]:
    try:
        words = shlex.split(command or "")
    except ValueError:
        return {}
    return {
        name: shlex.quote(value)
        for name, value in itertools.pairwise(words)
        if name.startswith("--") and not value.startswith("--")
    }
