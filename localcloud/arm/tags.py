"""What Resource Manager rejects in the tags of a resource or a resource group. Pure.

Codes and messages were not found in public material, except for the reserved characters: they are plausible,
not quoted. That a value is text is part of each type's specification.

Source: "Use tags to organize your Azure resources", limitations.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.errors import AzureError, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_TAGS: Final = 50
MAX_NAME: Final = 512
MAX_VALUE: Final = 256
# Storage accounts allow less than other resources.
MAX_STORAGE_NAME: Final = 128
_RESERVED: Final = re.compile(r"[<>%&\\?/\x00-\x1f\x7f]")


def tag_errors(tags: Mapping[str, object], full_type: str) -> Iterator[AzureError]:
    """Yield an error for each limit that tags of a resource of some type exceed."""
    longest = MAX_STORAGE_NAME if full_type == "Microsoft.Storage/storageAccounts" else MAX_NAME
    if len(tags) > MAX_TAGS:
        message = f"The number of tags '{len(tags)}' exceeds the maximum of '{MAX_TAGS}' for a resource."
        yield bad_request("TooManyTags", message)
    reserved = [name for name in tags if not name or _RESERVED.search(name)]
    if reserved:
        message = (
            f"The tag names '{','.join(reserved)}' have reserved characters '<,>,%,&,\\,?,/' or control "
            "characters."
        )
        yield bad_request("InvalidTagNameCharacters", message)
    for name, value in tags.items():
        if len(name) > longest:
            yield _too_long("name", name, longest, "InvalidTagNameLength")
        if isinstance(value, str) and len(value) > MAX_VALUE:
            yield _too_long("value", value, MAX_VALUE, "InvalidTagValueLength")


def _too_long(what: str, text: str, most: int, code: str) -> AzureError:
    message = (
        f"Tag {what} too large. Following tag {what} '{text}' exceeded the maximum length. Maximum allowed "
        f"length for tag {what} - '{most}' characters."
    )
    return bad_request(code, message)
