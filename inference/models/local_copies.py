"""Bring a base model from the share to where an engine reads it fast: the local disk, or else memory.

An engine maps the files of a model into memory and reads them by page faults. On a share, each is a request.
So the files are read from a share once, in large blocks of which several are on their way at a time, to the
local disk if they fit, where the next start finds them, or else into memory. Files on a disk stay where they
are.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from inference.errors import LoadError
from inference.models.disk import SPARE_DISK_BYTES, free_disk_bytes, in_mib, weights_folder
from inference.models.merged_copies import WEIGHT_SUFFIXES
from inference.models.weights import list_base_files
from inference.storage.copying import CopyFolder, MemoryCopy, Reading, copy_to_disk
from inference.storage.filesystems import detect_storage
from inference.storage.manifest import MANIFEST, UNFINISHED, compute_key, describe_files
from inference.storage.ranges import FileSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inference.models.weights import BaseModel
    from inference.settings import Settings
    from inference.storage.copying import CopySpace
    from inference.storage.filesystems import Storage
    from inference.storage.manifest import StoredFile

LOGGER: Final = logging.getLogger(__name__)

SPARE_MEMORY_BYTES: Final = 2**30
"""What a copy in memory leaves free for the processes of the replica."""

PHASE: Final = "reading the weights"
FIRST_PERCENT: Final = 10
LAST_PERCENT: Final = 29
REPORT_INTERVAL_S: Final = 0.5
LOG_INTERVAL_S: Final = 10.0
"""A deployment that restarts a replica shows the last line of its log."""

Place = Literal["share", "disk", "memory"]


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides where the files of a model are read from. Sizes are in bytes.

    Attributes:
        source: What the files are on.
        target: What the folder of the copies is on.
        total: The size of the files.
        there: How much of them the folder of the copies has already.
        disk_free: What may still be written to that folder.
        removable: The size of other copies there that no process uses.
        disk_reserved: What the engine will write to the same disk.
        memory_free: The free memory of the machine.
        memory_reserved: What the engine will take of it while it loads.
        failed: Where a copy could not be written.
    """

    source: Storage
    target: Storage
    total: int
    there: int
    disk_free: int
    removable: int
    disk_reserved: int
    memory_free: int
    memory_reserved: int
    failed: frozenset[Place] = frozenset()

    @property
    def disk_short(self) -> int:
        """Return how much disk has to be freed before a copy fits; 0 or less if it fits."""
        return self.total - self.there + self.disk_reserved + SPARE_DISK_BYTES - self.disk_free

    @property
    def memory_short(self) -> int:
        """Return how much memory is missing for a copy in it; 0 or less if it fits."""
        return self.total + self.memory_reserved + SPARE_MEMORY_BYTES - self.memory_free


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the files of a model are read from, and why."""

    place: Place
    reason: str


@dataclass(frozen=True, slots=True)
class Need:
    """What an engine takes besides the files that it reads. Sizes are in bytes.

    Attributes:
        disk: What it will write to the disk of the copies.
        memory: What it will take of the machine's memory while it loads.
        memory_free: The memory of the machine that is free before that.
    """

    disk: int
    memory: int
    memory_free: int


def choose_place(setting: str, situation: Situation) -> Choice:
    """Choose where an engine reads the files of a model from.

    Args:
        setting: `auto`, or `disk`, `memory` or `off`, which are obeyed whatever the files are on.
        situation: What the files, the disk and the memory are like.

    Raises:
        LoadError: If the setting asks for a copy that does not fit.
    """
    if setting == "off":
        return Choice("share", "FJARR_LOCAL_WEIGHTS is off")
    if setting == "auto" and situation.source != "network":
        return Choice("share", "its files are on this machine")
    no_disk, no_memory = _disk_obstacle(situation), _memory_obstacle(situation)
    if setting == "auto":
        if not no_disk:
            return Choice("disk", "its files are on a share")
        if not no_memory:
            return Choice("memory", f"its files are on a share, and {no_disk}")
        return Choice("share", f"{no_disk}, and {no_memory}")
    obstacle = no_disk if setting == "disk" else no_memory
    if obstacle:
        raise LoadError(f"FJARR_LOCAL_WEIGHTS is {setting}, and {obstacle}: leave it at auto, or free some")
    return Choice("disk" if setting == "disk" else "memory", f"FJARR_LOCAL_WEIGHTS is {setting}")


@contextmanager
def local_base(
    base: BaseModel,
    need: Need,
    settings: Settings,
    report: Callable[[str, int], object],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[BaseModel]:
    """Yield the base with its files where an engine reads them fast, for as long as it loads.

    Raises:
        LoadError: If a file cannot be read, or differs from its digest, or the settings ask for a copy that
            does not fit.
    """
    if not base.is_local:
        yield base
        return
    with ExitStack() as stack:
        try:
            path = _make_copy(stack, base, need, settings, _Progress(report, clock))
        except OSError as error:
            raise LoadError(
                f"the base model {base.name} cannot be copied from {base.source}: {error}"
                " (FJARR_LOCAL_WEIGHTS=off reads it where it is, which is slow on a share)"
            ) from error
        yield base if path is None else replace(base, source=str(path))


def list_files(base: BaseModel) -> tuple[StoredFile, ...]:
    """Return the files that an engine reads of a base: its weights, and all that are no weights.

    Raises:
        OSError: If the folder cannot be read.
    """
    folder = Path(base.source)
    weights = list_base_files(base) or sorted(folder.glob("pytorch_model*.bin"))
    others = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (*WEIGHT_SUFFIXES, *UNFINISHED) and path.name != MANIFEST
    )
    return describe_files(folder, (*others, *weights))


def _make_copy(
    stack: ExitStack, base: BaseModel, need: Need, settings: Settings, progress: _Progress
) -> Path | None:
    """Return the folder of a copy, which lasts as long as the stack; None if there is to be none.

    Raises:
        OSError: If the settings ask for a copy that cannot be written.
    """
    files, copies = list_files(base), CopyFolder(weights_folder(settings))
    key = compute_key(files)
    situation = _measure(base, files, copies.measure(key), need, settings)
    while True:
        choice = choose_place(settings.local_weights, situation)
        if choice.place == "share":
            is_slow = settings.local_weights != "off" and situation.source == "network"
            level = logging.WARNING if is_slow else logging.INFO
            LOGGER.log(level, "%s is read where it is, because %s", base.name, choice.reason)
            return None
        LOGGER.info("%s is copied to %s, because %s", base.name, choice.place, choice.reason)
        progress.begin(base.name, situation.total)
        try:
            if choice.place == "disk":
                return _copy_to_disk(stack, files, copies, key, situation.disk_short, progress)
            return _copy_to_memory(stack, files, progress)
        except OSError as error:
            if settings.local_weights != "auto":
                raise
            LOGGER.warning("%s cannot be copied to %s: %s", base.name, choice.place, error)
            situation = replace(situation, failed=situation.failed | {choice.place})


def _copy_to_disk(  # noqa: PLR0913, PLR0917 - what is copied, where to, and what has to go for it
    stack: ExitStack,
    files: Sequence[StoredFile],
    copies: CopyFolder,
    key: str,
    short: int,
    progress: _Progress,
) -> Path:
    def make(target: Path) -> None:
        for name in copies.remove_unused(key, short):
            LOGGER.info("the copy %s is removed: nothing uses it, and the disk is short", name)
        try:
            with FileSource() as source:
                copy_to_disk(files, target, Reading(source, progress.advance))
        except OSError:
            # The disk is full, or cannot be written: what is there would only be in the way.
            copies.discard(key)
            raise
        progress.log()

    return stack.enter_context(copies.held(key, make))


def _copy_to_memory(stack: ExitStack, files: Sequence[StoredFile], progress: _Progress) -> Path:
    memory = stack.enter_context(MemoryCopy())
    with FileSource() as source:
        memory.read(files, Reading(source, progress.advance))
    progress.log()
    return memory.folder


def _measure(
    base: BaseModel, files: Sequence[StoredFile], space: CopySpace, need: Need, settings: Settings
) -> Situation:
    folder, disk_free = weights_folder(settings), 0
    with suppress(OSError):  # a disk that cannot be looked at has no room
        disk_free = free_disk_bytes(folder, settings)
    return Situation(
        source=detect_storage(Path(base.source)),
        target=detect_storage(folder),
        total=sum(file.size_bytes for file in files),
        there=space.copied_bytes,
        disk_free=disk_free,
        removable=space.removable_bytes,
        disk_reserved=need.disk,
        memory_free=need.memory_free,
        memory_reserved=need.memory,
    )


def _disk_obstacle(situation: Situation) -> str:
    if "disk" in situation.failed:
        return "the local disk cannot be written"
    if situation.there >= situation.total:
        return ""
    if situation.target == "network":
        return "the folder of the copies is on a share as well"
    if situation.target == "memory":
        # It would stay there; a copy in memory is given back when the model is loaded.
        return "the folder of the copies is in memory"
    lack = situation.disk_short - situation.removable
    return f"{in_mib(lack)} are missing on the local disk" if lack > 0 else ""


def _memory_obstacle(situation: Situation) -> str:
    if "memory" in situation.failed:
        return "no memory can be written"
    if not hasattr(os, "memfd_create"):
        return "this system has no files in memory"
    short = situation.memory_short
    return f"{in_mib(short)} of memory are missing" if short > 0 else ""


class _Progress:
    """The progress of a copy, as a phase of the start."""

    def __init__(self, report: Callable[[str, int], object], clock: Callable[[], float]) -> None:
        self._report = report
        self._clock = clock
        self._name = ""
        self._total = self._done = 0
        self._start_s = self._shown_s = self._logged_s = 0.0

    def begin(self, name: str, total: int) -> None:
        """Begin to count the bytes of a copy."""
        self._name, self._total, self._done = name, total, 0
        self._start_s = self._shown_s = self._logged_s = self._clock()

    def advance(self, size_bytes: int) -> None:
        """Count bytes, and report now and then."""
        self._done += size_bytes
        now_s = self._clock()
        if now_s - self._shown_s >= REPORT_INTERVAL_S:
            self._shown_s = now_s
            share = self._done / max(1, self._total)
            percent = FIRST_PERCENT + int((LAST_PERCENT - FIRST_PERCENT) * share)
            done, total = self._done / 1e9, self._total / 1e9
            text = f"{PHASE}: {done:.1f} of {total:.1f} GB, {100 * share:.0f} %"
            self._report(text, percent)
            if now_s - self._logged_s >= LOG_INTERVAL_S:
                self._logged_s = now_s
                LOGGER.info("%s", text)

    def log(self) -> None:
        """Write how long it took."""
        seconds = self._clock() - self._start_s
        LOGGER.info(
            "%s: %.0f MB in %.1f s, %.0f MB/s",
            self._name, self._done / 1e6, seconds, self._done / 1e6 / max(seconds, 1e-3),
        )  # fmt: skip
