"""What az says when it fails, and what we make of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.az.errors import (
    AzureRejectedError,
    ErrorCause,
    NotFoundError,
    classify,
    find_cause,
    innermost_cause,
)
from infra.errors import FjarrError, RemoteError, ToolError, UsageError

COMMAND = "az deployment group create --name inference"

# The body that Azure gave for a workload profile that does not exist (deployment validation, HTTP 400).
NESTED: dict[str, Any] = {
    "error": {
        "code": "InvalidTemplateDeployment",
        "message": "The template deployment 'main' is not valid. See inner errors for details.",
        "details": [
            {
                "code": "ValidationForResourceFailed",
                "message": "Validation failed for a resource. Check 'Error.Details[0]' for more information.",
                "details": [
                    {
                        "code": "WorkloadProfileNotFound",
                        "message": "Workload Profile name 'Consumption-GPU-NC24-A100' does not exist for the "
                        "environment 'me-gpullm'.",
                    }
                ],
            }
        ],
    }
}
# The same kind of thing, where the inner error is a whole document as text within a message.
IN_A_STRING: dict[str, Any] = {
    "code": "DeploymentFailed",
    "message": "At least one resource deployment operation failed. Please list them.",
    "details": [
        {
            "code": "Conflict",
            "message": json.dumps(
                {
                    "status": "Failed",
                    "error": {
                        "code": "ResourceDeploymentFailure",
                        "message": "The resource operation completed with state Failed.",
                        "details": [
                            {
                                "code": "QuotaExceeded",
                                "message": "It exceeds quota\r\nlimits.",
                            }
                        ],
                    },
                }
            ),
        }
    ],
}


def test_the_innermost_cause_of_nested_details() -> None:
    assert innermost_cause(NESTED) == ErrorCause(
        "WorkloadProfileNotFound",
        "Workload Profile name 'Consumption-GPU-NC24-A100' does not exist for the environment 'me-gpullm'.",
    )


def test_the_innermost_cause_in_a_document_within_a_message() -> None:
    assert innermost_cause(IN_A_STRING) == ErrorCause("QuotaExceeded", "It exceeds quota limits.")


@pytest.mark.parametrize(
    "document", [None, 3, [], {}, {"error": None}, {"code": "X"}, "no document", "{broken"]
)
def test_what_is_no_error_document_has_no_cause(document: Any) -> None:
    assert innermost_cause(document) is None


def test_a_document_after_prose() -> None:
    text = f"ERROR: {json.dumps(NESTED)}\nTo troubleshoot, see elsewhere."
    assert find_cause(text) == innermost_cause(NESTED)


def test_the_code_and_message_line_of_az() -> None:
    text = (
        "ERROR: (ResourceGroupNotFound) Resource group 'x' could not be found.\nCode: ResourceGroupNotFound\n"
    )
    assert find_cause(text) == ErrorCause("ResourceGroupNotFound", "Resource group 'x' could not be found.")


def test_the_inner_errors_of_az_are_documents_one_after_the_other() -> None:
    inner = NESTED["error"]["details"][0]
    text = (
        'ERROR: {"code": "InvalidTemplateDeployment", "message": "See inner errors for details."}\n\n'
        f"Inner Errors: \n{json.dumps(inner)}\n"
    )
    assert find_cause(text) == innermost_cause(inner)


def test_of_several_causes_the_first_that_says_something() -> None:
    text = (
        "ERROR: PreflightValidationCheckFailed - Preflight validation failed.\n"
        "AccountNameInvalid - A_B is not a valid storage account name.\n"
        "Other - another.\n"
    )
    assert find_cause(text) == ErrorCause("AccountNameInvalid", "A_B is not a valid storage account name.")


def test_code_and_message_on_lines_of_their_own() -> None:
    assert find_cause("Code: Teapot\nMessage: I am one.") == ErrorCause("Teapot", "I am one.")


def test_an_error_of_azure_is_the_message_with_command_and_hint() -> None:
    error = classify(1, f"ERROR: {json.dumps(IN_A_STRING)}", command=COMMAND)
    assert isinstance(error, AzureRejectedError)
    assert str(error) == (
        "error: Azure rejected the request: QuotaExceeded: It exceeds quota limits.\n"
        "command: az deployment group create --name inference\n"
        "hint: lower maximumInstanceCount or maxReplicas in infra/provision/inference.parameters.json, or "
        "ask for quota in the Azure portal (Quotas, provider Azure Container Apps)"
    )
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("exit_code", "stderr", "kind", "message"),
    [
        (
            3,
            "ERROR: (ResourceNotFound) The Resource 'x' was not found.",
            NotFoundError,
            "the resource does not exist",
        ),
        (1, "ERROR: Please run 'az login' to setup account.", UsageError, "you are not signed in to Azure"),
        (
            1,
            "ERROR: AADSTS700082: The refresh token has expired.",
            UsageError,
            "you are not signed in to Azure",
        ),
        (2, "ERROR: unrecognized arguments: --foo", ToolError, "az rejected its arguments"),
        (1, "Traceback:\n  boom", RemoteError, "az failed with exit code 1"),
    ],
)
def test_who_must_act(exit_code: int, stderr: str, kind: type[FjarrError], message: str) -> None:
    error = classify(exit_code, stderr, command="az x")
    assert type(error) is kind
    assert error.message.startswith(message)
    assert error.command == "az x"


def test_where_nothing_is_understood_the_last_lines_are_shown() -> None:
    error = classify(1, "\n".join(f"line {number}\n" for number in range(40)), command="az x")
    assert error.details[-1] == "line 39"
    assert len(error.details) == 15
