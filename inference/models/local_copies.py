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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from inference.errors import LoadError
from inference.models.disk import SPARE_DISK_BYTES, free_disk_bytes, weights_folder
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
    from inference.storage.copying import Room
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
            path = _bring(stack, base, need, settings, _Progress(report, clock))
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


def _bring(
    stack: ExitStack, base: BaseModel, need: Need, settings: Settings, progress: _Progress
) -> Path | None:
    """Return the folder of a copy, which lasts as long as the stack; None if there is to be none."""
    files, folder = list_files(base), weights_folder(settings)
    copies, key = CopyFolder(folder), compute_key(files)
    situation = _measure(base, files, copies.look(key), need, settings)
    choice = choose_place(settings.local_weights, situation)
    if choice.place == "share":
        is_slow = settings.local_weights != "off" and situation.source == "network"
        LOGGER.log(
            logging.WARNING if is_slow else logging.INFO,
            "%s is read where it is, because %s", base.name, choice.reason,
        )  # fmt: skip
        return None
    LOGGER.info("%s is copied to %s, because %s", base.name, choice.place, choice.reason)
    progress.total = situation.total
    reading = Reading(stack.enter_context(FileSource()), progress.advance)
    if choice.place == "memory":
        memory = stack.enter_context(MemoryCopy())
        memory.read(files, reading)
        progress.log(base.name)
        return memory.folder

    def make(target: Path) -> None:
        for name in copies.make_room(key, situation.disk_short):
            LOGGER.info("the copy %s is removed: nothing uses it, and the disk is short", name)
        copy_to_disk(files, target, reading)
        progress.log(base.name)

    return stack.enter_context(copies.held(key, make))


def _measure(
    base: BaseModel, files: Sequence[StoredFile], room: Room, need: Need, settings: Settings
) -> Situation:
    folder = weights_folder(settings)
    return Situation(
        source=detect_storage(Path(base.source)),
        target=detect_storage(folder),
        total=sum(file.size_bytes for file in files),
        there=room.there,
        disk_free=free_disk_bytes(folder, settings),
        removable=room.removable,
        disk_reserved=need.disk,
        memory_free=need.memory_free,
        memory_reserved=need.memory,
    )


def _disk_obstacle(situation: Situation) -> str:
    if situation.there >= situation.total:
        return ""
    if situation.target == "network":
        return "the folder of the copies is on a share as well"
    if situation.target == "memory":
        # It would stay there; a copy in memory is given back when the model is loaded.
        return "the folder of the copies is in memory"
    lack = situation.disk_short - situation.removable
    return f"{_mib(lack)} are missing on the local disk" if lack > 0 else ""


def _memory_obstacle(situation: Situation) -> str:
    if not hasattr(os, "memfd_create"):
        return "this system has no files in memory"
    short = situation.memory_short
    return f"{_mib(short)} of memory are missing" if short > 0 else ""


class _Progress:
    """The progress of a copy, as a phase of the start.

    Attributes:
        total: The number of bytes to read.
    """

    def __init__(self, report: Callable[[str, int], object], clock: Callable[[], float]) -> None:
        self.total = 0
        self._report = report
        self._clock = clock
        self._start_s = self._shown_s = self._logged_s = clock()
        self._done = 0

    def advance(self, size_bytes: int) -> None:
        """Count bytes, and report now and then."""
        self._done += size_bytes
        now_s = self._clock()
        if now_s - self._shown_s >= REPORT_INTERVAL_S:
            self._shown_s = now_s
            share = self._done / max(1, self.total)
            percent = FIRST_PERCENT + int((LAST_PERCENT - FIRST_PERCENT) * share)
            done, total = self._done / 1e9, self.total / 1e9
            text = f"{PHASE}: {done:.1f} of {total:.1f} GB, {100 * share:.0f} %"
            self._report(text, percent)
            if now_s - self._logged_s >= LOG_INTERVAL_S:
                self._logged_s = now_s
                LOGGER.info("%s", text)

    def log(self, name: str) -> None:
        """Write how long it took."""
        seconds = self._clock() - self._start_s
        LOGGER.info(
            "%s: %.0f MB in %.1f s, %.0f MB/s",
            name, self._done / 1e6, seconds, self._done / 1e6 / max(seconds, 1e-3),
        )  # fmt: skip


def _mib(size_bytes: int) -> str:
    return f"{-(-size_bytes // 2**20)} MiB"
