"""The original's names, to the letter."""

from __future__ import annotations

import pytest

from infra.az.commands import Group
from infra.az.names import unique_string
from infra.config.settings import Settings

GROUP = Group("00000000-0000-0000-0000-000000000000", "my-rg")


@pytest.mark.parametrize(
    ("values", "letters"),
    [
        (("test",), "rbgf3xv4ufgzg"),
        (("hello", "world"), "a7wkljktk6wne"),
        (("abc",), "cgtzqvhu4i23s"),
        (("foo", "bar", "baz"), "xzi4ioaxtmth4"),
        ((GROUP.id,), "bmg7c6xu4tw46"),
    ],
)
def test_unique_string_as_azure_computes_it(values: tuple[str, ...], letters: str) -> None:
    assert unique_string(*values) == letters


def test_the_case_of_a_groups_name_counts() -> None:
    assert unique_string(Group(GROUP.subscription, "My-RG").id) != unique_string(GROUP.id)


def test_the_default_names() -> None:
    names = Settings().names(GROUP)
    assert names.storage_account == "aistoragebmg7c"
    assert names.file_share == "aifilesharebmg7c"
    assert names.environment == "aienvbmg7c"
    assert names.environment_storage == "aienvstoragebmg7c"
    assert names.app == "aiacaappbmg7c"
    assert names.workspace == "ailogbmg7c"
