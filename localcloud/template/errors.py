"""The errors of the template language, from the innermost expression outwards.

```
ExpressionError   an expression cannot be evaluated; the evaluating code adds the position
TemplateError     the template or a parameter is wrong; `as_azure_error` is Resource Manager's response
NeedsRuntime      not an error: the value is only known when the deployment runs
```

Messages are Azure's own where the Bicep CLI's snapshot engine, which is Azure's evaluator, shows them.
"""

from __future__ import annotations

from typing import Final

from localcloud.errors import AzureError

FUNCTIONS_HELP: Final = "Please see https://aka.ms/arm-functions for usage details."


class ExpressionError(Exception):
    """An expression that cannot be evaluated, in Azure's words."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NeedsRuntime(Exception):  # noqa: N818 - a signal to the evaluator, which no caller sees
    """A value that is only known when the deployment runs."""


class TemplateError(Exception):
    """A template that Azure rejects.

    Args:
        message: Azure's message, without the text that Resource Manager adds around it.
        line: The line of the template's text, from 1; 0 if it is not known.
        column: The column in that line, from 1; 0 if it is not known.
        path: The JSON path of what is wrong, such as ``properties.template.resources.app``.
    """

    def __init__(self, message: str, *, line: int = 0, column: int = 0, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.path = path

    def as_azure_error(self) -> AzureError:
        """Return Resource Manager's response: `InvalidTemplate`, with the position in its additional info."""
        return AzureError(
            400,
            "InvalidTemplate",
            f"Deployment template validation failed: '{self.message}'.",
            additional_info=(
                {
                    "type": "TemplateViolation",
                    "info": {"lineNumber": self.line, "linePosition": self.column, "path": self.path},
                },
            ),
        )


def function_error(message: str) -> ExpressionError:
    """Return an error that ends with Azure's link for functions."""
    return ExpressionError(f"{message} {FUNCTIONS_HELP}")


def misplaced(name: str, where: str = "") -> ExpressionError:
    """Return the error for a function that its section of the template does not allow."""
    return function_error(f"The template function '{name}' is not expected at this location.{where}")
