"""The XML documents of Azure Files.

Pure. Names that XML cannot represent are percent-encoded and marked `Encoded="true"`, as the service does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from localcloud.files.errors import StorageError

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def error_document(error: StorageError, request_id: str, time: str) -> bytes:
    """Return the `Error` document; its message contains the request's id and time."""
    root = ET.Element("Error")
    add(root, "Code", error.code)
    add(root, "Message", f"{error.message}\nRequestId:{request_id}\nTime:{time}")
    for name, value in error.extra:
        add(root, name, value)
    return document(root)


def add(parent: ET.Element, tag: str, text: str | None = None) -> ET.Element:
    """Append an element with its text; characters that XML cannot represent become `?`."""
    element = ET.SubElement(parent, tag)
    element.text = None if text is None else _NOT_XML.sub("?", text)
    return element


def add_name(parent: ET.Element, tag: str, name: str) -> ET.Element:
    """Append a name; one that XML cannot represent is percent-encoded and marked."""
    if _NOT_XML.search(name) is None:
        return add(parent, tag, name)
    element = add(parent, tag, quote(name.encode("utf-8", "surrogateescape")))
    element.set("Encoded", "true")
    return element


def document(root: ET.Element) -> bytes:
    """Return a document as UTF-8, with its declaration."""
    body: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=False)
    return b'<?xml version="1.0" encoding="utf-8"?>' + body
