"""Apply changes of the API keys while requests are served.

`invoke key` writes the changed keys to a file on the share, because a replica's environment does not change
until it is replaced, and a replica that is replaced gives its GPU back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from inference.api_keys import KEYS_FILE, parse_changed_keys

if TYPE_CHECKING:
    from pathlib import Path

    from inference.api_keys import ApiKey
    from inference.web.keyring import Keyring

LOGGER: Final = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
"""How often the file is looked at. Each look is one request to the share."""


class KeyChanges:
    """The file with changed keys on the share, and the keyring that follows it.

    Args:
        share: The folder where the share is mounted.
        configured: The keys that this process was started with.
        keyring: The keyring.
    """

    def __init__(self, share: Path, configured: tuple[ApiKey, ...], keyring: Keyring) -> None:
        self._path = share / KEYS_FILE
        self._configured = configured
        self._keyring = keyring
        self._text: str | None = None

    async def follow(self) -> NoReturn:
        """Apply every change of the file until cancelled."""
        while True:
            await self.apply()
            await asyncio.sleep(INTERVAL_S)

    async def apply(self) -> None:
        """Read the file, and change the keyring if it has changed.

        A file that cannot be read changes nothing: a share that does not answer must not remove keys.
        """
        try:
            text = await asyncio.to_thread(self._path.read_text)
        except FileNotFoundError:
            text = None
        except (OSError, ValueError) as error:
            LOGGER.warning("%s cannot be read; the keys stay as they are: %s", self._path, error)
            return
        if text == self._text:
            return
        self._text = text
        try:
            keys = self._configured if text is None else parse_changed_keys(text).apply_to(self._configured)
        except ValueError as error:
            LOGGER.error("%s is not used; the keys stay as they are: %s", self._path, error)  # noqa: TRY400
            return
        self._keyring.replace(keys)
        LOGGER.info("the API keys are those of %s", ", ".join(key.name for key in keys))
