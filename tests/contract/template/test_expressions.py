"""Expressions, one by one: several hundred values, and a hundred errors with Azure's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from localcloud.template import Deployment


@pytest.fixture
def table(judging: ModuleType) -> dict[str, Any]:
    return dict(judging.read(judging.LANGUAGE / "expressions.json"))


@pytest.fixture
def given(judging: ModuleType) -> dict[str, Any]:
    return dict(judging.values_of(judging.LANGUAGE / "expressions.parameters.json"))


def test_values(
    table: dict[str, Any], given: dict[str, Any], judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    template = judging.expressions_template({text: text for text in table["values"]}, table["context"])
    probe = next(each for each in deploy(template, **given).plan() if each.name == "probe")
    assert probe.body["properties"] == table["values"]


def test_types_of_values_are_distinguished(
    table: dict[str, Any], given: dict[str, Any], judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    # 1, 1.0 and true are equal to Python, not to Azure.
    template = judging.expressions_template({text: text for text in table["values"]}, table["context"])
    probe = next(each for each in deploy(template, **given).plan() if each.name == "probe")
    assert repr_of(probe.body["properties"]) == repr_of(table["values"])


def test_errors(
    refused: tuple[str, str],
    table: dict[str, Any],
    given: dict[str, Any],
    judging: ModuleType,
    deploy: Callable[..., Deployment],
) -> None:
    expression, message = refused
    template = judging.expressions_template({"e": expression}, table["context"])
    with pytest.raises(AzureError) as caught:
        deploy(template, **given)
    assert caught.value.code == "InvalidTemplate"
    assert caught.value.message == f"Deployment template validation failed: '{message}'."


@pytest.mark.bicep
def test_table_equals_bicep(table: dict[str, Any], judging: ModuleType, judge: Any) -> None:
    assert judging.judged_expressions(judge) == table


def repr_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: repr_of(item) for key, item in value.items()}
    return [repr_of(item) for item in value] if isinstance(value, list) else repr(value)
