"""A template's resources as they are declared, in one list: with symbolic names or without, nested or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from localcloud.errors import AzureError, not_emulated
from localcloud.template.errors import FUNCTIONS_HELP, ExpressionError, TemplateError, function_error
from localcloud.template.parser import expressions_in, is_expression, parse
from localcloud.template.registry import find_function
from localcloud.template.syntax import calls_in
from localcloud.template.values import position_of

_TEMPLATE_KEYS: Final = {
    *("$schema", "contentVersion", "languageVersion", "apiProfile", "definitions", "metadata", "functions"),
    *("parameters", "variables", "resources", "outputs"),
}
_NOT_EMULATED_KEYS: Final = ("imports", "extensions", "asserts")
_GROUP_SCHEMA: Final = "deploymentTemplate.json"
_KEYWORDS: Final = {
    *("type", "apiVersion", "name", "condition", "copy", "dependsOn", "existing", "comments", "metadata"),
    *("resources",),
}
_NOT_EMULATED_KEYWORDS: Final = ("scope", "import", "extension", "@options")
_EXISTING_KEYWORDS: Final = ("subscriptionId", "resourceGroup")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A resource of the template, which a loop may repeat.

    Args:
        symbolic_name: Its key in the template; empty if the template has no symbolic names.
        type: The full type.
        names: The strings whose values, joined with slashes, are its name: one for each nesting level.
        document: The resource in the template.
        line: The line of its opening brace, from 1.
        column: The column of its opening brace, from 1.
    """

    symbolic_name: str
    type: str
    names: tuple[str, ...]
    document: dict[str, Any]
    line: int
    column: int

    @property
    def body(self) -> dict[str, Any]:
        """The body, with its expressions: everything but Resource Manager's keywords."""
        return {key: value for key, value in self.document.items() if key not in _KEYWORDS}

    @property
    def label(self) -> str:
        """Its name in Azure's messages."""
        return self.symbolic_name or self.names[-1]

    def is_not_valid(self, message: str) -> TemplateError:
        """Return the error for an expression in it."""
        return TemplateError(
            f"The template resource '{self.label}' at line '{self.line}' and column '{self.column}' is not "
            f"valid: {message}. Please see https://aka.ms/arm-functions for usage details.",
            line=self.line,
            column=self.column,
            path=f"properties.template.resources.{self.label}",
        )


def check_template(template: dict[str, Any]) -> None:
    """Check a template's top-level keys and its schema.

    Raises:
        TemplateError: A key is unknown, or the schema is not that of a resource group's template.
        AzureError: 501, for what Azure supports and the local cloud does not.
    """
    for key in template:
        if key in _NOT_EMULATED_KEYS:
            raise not_emulated(f"'{key}' in a template")
        if key not in _TEMPLATE_KEYS:
            line, column = position_of(template)
            raise AzureError(
                400,
                "InvalidRequestContent",
                "The request content was invalid and could not be deserialized: "
                f"'Could not find member '{key}' on object of type 'Template'. Path '{key}', line {line}, "
                f"position {column}.'.",
            )
    schema = str(template.get("$schema", ""))
    if schema.rstrip("#").rpartition("/")[2].lower() != _GROUP_SCHEMA.lower():
        raise TemplateError(
            f"The template's schema '{schema}' is not that of a resource group's deployment, "
            f"'{_GROUP_SCHEMA}'."
        )
    version = template.get("languageVersion")
    if version not in (None, "1.0", "2.0"):
        raise not_emulated(f"the template language version '{version}'")


def declarations(resources: dict[str, Any] | list[Any]) -> list[Declaration]:
    """Return a template's resources in their order, each parent before its nested resources.

    Raises:
        TemplateError: A resource lacks its type, name or api-version.
        AzureError: 501, for a keyword that the local cloud does not support.
    """
    return _declared(resources, None)


def _declared(resources: dict[str, Any] | list[Any], parent: Declaration | None) -> list[Declaration]:
    pairs = resources.items() if isinstance(resources, dict) else (("", each) for each in resources)
    found: list[Declaration] = []
    for symbolic_name, document in pairs:
        declaration = _declaration(symbolic_name, document, parent)
        found.append(declaration)
        found += _declared(document.get("resources", []), declaration)
    return found


def _declaration(symbolic_name: str, document: dict[str, Any], parent: Declaration | None) -> Declaration:
    line, column = position_of(document)
    label = symbolic_name or document.get("name", "")
    is_existing = document.get("existing", False)
    for key in _NOT_EMULATED_KEYWORDS if is_existing else (*_NOT_EMULATED_KEYWORDS, *_EXISTING_KEYWORDS):
        if key in document:
            raise not_emulated(f"'{key}' of a template resource ('{label}')")
    for key in ("type", "name", "apiVersion"):
        if not document.get(key) or not isinstance(document[key], str):
            raise TemplateError(
                _missing(key, label, str(document.get("type")), line, column),
                line=line,
                column=column,
                path=f"properties.template.resources.{label}",
            )
    resource_type, names = document["type"], (document["name"],)
    if parent is not None:
        resource_type, names = f"{parent.type}/{resource_type}", (*parent.names, *names)
    if resource_type.lower() == "microsoft.resources/deployments":
        raise not_emulated("nested deployments (Bicep modules)")
    if is_expression(resource_type) or is_expression(document["apiVersion"]):
        raise not_emulated(f"an expression as the type or the api-version of a resource ('{label}')")
    return Declaration(symbolic_name, resource_type, names, document, line, column)


def _missing(key: str, label: str, resource_type: str, line: int, column: int) -> str:
    """Return Azure's error for a resource that lacks one of the three required properties."""
    if key == "apiVersion":
        return (
            f"The template resource '{label}' is not valid. The api-version property at line '{line}' and "
            f"column '{column}' is not defined. The api-profile '<null>' for the template does not match any "
            f"valid api-version for the resource type '{resource_type}'.  Either explicitly specify the "
            "api-version for the resource or specify the correct api-profile for the template.. Please see "
            "https://aka.ms/arm-syntax-resources for usage details."
        )
    kind = f" of type '{resource_type}'" if key == "name" else ""
    return (
        f"The template resource '{label}'{kind} at line '{line}' and column '{column}' is not valid. The "
        f"{key} property cannot be null or empty. Please see https://aka.ms/arm-syntax-resources for usage "
        "details."
    )


def check_expressions(template: dict[str, Any], declared: list[Declaration]) -> None:
    """Check every expression, evaluated or not: its syntax, and that its functions exist.

    Raises:
        TemplateError: An expression is not valid.
    """
    for declaration in declared:
        if (error := _first_error(_own(declaration))) is not None:
            raise declaration.is_not_valid(str(error))
    for section in ("parameters", "variables", "outputs"):
        for name, document in template.get(section, {}).items():
            if (error := _first_error(document)) is not None:
                raise TemplateError(
                    f"The template {section[:-1]} '{name}' is not valid: {error}. {FUNCTIONS_HELP}",
                    path=f"properties.template.{section}.{name}",
                )
    if (error := _first_error(template.get("functions", []))) is not None:
        raise TemplateError(f"A function of the template is not valid: {error}. {FUNCTIONS_HELP}")


def _own(declaration: Declaration) -> dict[str, Any]:
    """Return a resource without its nested resources, which are checked separately."""
    return {key: value for key, value in declaration.document.items() if key != "resources"}


def _first_error(document: Any) -> ExpressionError | None:  # noqa: ANN401 - any JSON value
    for expression in expressions_in(document):
        try:
            for call in calls_in(parse(expression)):
                if "." not in call.name and find_function(call.name) is None:
                    return function_error(f"The template function '{call.name}' is not valid.")
        except ExpressionError as exc:
            return exc
    return None
