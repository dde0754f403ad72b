"""The logs' guarantees: order, no gap between tail and follow, a bounded size, and durability."""

# ruff: noqa: ASYNC240 - a test may look at a file
from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.clock import utc_now
from localcloud.runtime import ConsoleRecord
from localcloud.runtime.container_run import _pump
from localcloud.runtime.logs import Log, console_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REVISION = "app--0000001"


def records(*texts: str) -> list[ConsoleRecord]:
    return [ConsoleRecord(utc_now(), text) for text in texts]


async def texts(log: Log[ConsoleRecord], tail: int, *, follow: bool = False) -> list[str]:
    return [record.text async for record in log.read(tail, follow=follow)]


async def test_reads_the_last_lines(tmp_path: Path) -> None:
    log = console_log(tmp_path / "log", 1000)
    assert await texts(log, 5) == []
    await log.append(records("one", "two\u2028still two", "three"))
    await log.append(records())
    assert await texts(log, 2) == ["two\u2028still two", "three"]
    assert await texts(log, 0) == []
    assert await texts(log, 300) == ["one", "two\u2028still two", "three"]


async def test_follows_without_a_gap_until_the_log_is_closed(tmp_path: Path) -> None:
    log = console_log(tmp_path / "log", 10**6)
    written = [str(number) for number in range(500)]

    async def write() -> None:
        for text in written:
            await log.append(records(text))
        log.close()

    writing = asyncio.create_task(write())
    readers = []
    for _ in range(5):
        readers.append(asyncio.create_task(texts(log, 10**6, follow=True)))
        await asyncio.sleep(0)
    assert await asyncio.gather(*readers) == [written] * 5
    await writing
    assert await texts(log, 1, follow=True) == ["499"]


async def test_keeps_two_files_of_a_bounded_size(tmp_path: Path) -> None:
    log = console_log(tmp_path / "log", 2000)
    for number in range(200):
        await log.append(records(f"line {number}"))
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["log", "log.1"]
    assert sum(path.stat().st_size for path in files) < 4200
    kept = await texts(log, 1000)
    assert kept == [f"line {number}" for number in range(200 - len(kept), 200)]
    assert len(kept) > 20


async def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    await console_log(path, 1000).append(records("before"))
    with path.open("a") as file:
        file.write('{"TimeStamp": "2026-')
    log = console_log(path, 1000)
    await log.append(records("after"))
    assert await texts(log, 10) == ["before", "after"]


async def test_output_that_cannot_be_kept_is_read_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"one\ntwo\nthree")
    reader.feed_eof()
    await _pump(reader, console_log(tmp_path, 1000))
    assert reader.at_eof()
    assert "2 lines of a container's output are lost" in caplog.text


async def test_a_console_can_be_followed_and_read_after_the_end(bench: Any) -> None:
    await bench.up()
    (replica,) = bench.host.replicas(REVISION)

    async def follow() -> list[str]:
        log = bench.host.console_log(REVISION, replica.name, tail=10, follow=True)
        return [record.text async for record in log]

    following = asyncio.create_task(follow())
    await bench.line("starting")
    await bench.host.stop(REVISION)
    async with asyncio.timeout(60):
        lines = await following
    assert lines[0].startswith("starting ")
    assert lines[1:] == ["draining", "drained"]
    after = [record async for record in bench.host.console_log(REVISION, replica.name, tail=2, follow=True)]
    assert [record.text for record in after] == ["draining", "drained"]
    assert after[0].time <= after[1].time <= utc_now()


async def test_a_flood_of_output_neither_stops_the_container_nor_fills_the_disk(
    make_bench: Callable[..., Any], tmp_path: Path
) -> None:
    bench = await make_bench(log_bytes=100_000)
    flood = "import sys; [sys.stdout.write(f'line {n} ' + 'x' * 100 + chr(10)) for n in range(50_000)]"
    spec = bench.spec()
    args = ("-c", f'python3 -c "{flood}"; exec python3 {bench.server}')
    await bench.up(replace(spec, container=replace(spec.container, args=args)))
    await bench.line("starting ")
    (replica,) = bench.host.replicas(REVISION)
    log = bench.host.console_log(REVISION, replica.name, tail=2)
    assert [record.text.split()[:-1] async for record in log] == [["line", "49999"], ["starting"]]
    sizes = [path.stat().st_size for path in (tmp_path / "state").rglob("console.log*")]
    # A file may grow by one piece of output (64 KiB, and its frame) beyond its limit.
    assert sum(sizes) < 500_000


@pytest.mark.parametrize(
    "name", ["../../app--0000001-0123456789-abcde", "app--0000001-0123456789-abcde", "*", ""]
)
async def test_a_console_that_does_not_exist_is_a_key_error(bench: Any, name: str) -> None:
    with pytest.raises(KeyError):
        bench.host.console_log(REVISION, name)
    with pytest.raises(KeyError):
        bench.host.system_log("nobody")


async def test_only_the_newest_logs_are_kept(make_bench: Callable[..., Any], tmp_path: Path) -> None:
    bench = await make_bench(kept_logs=1)
    for _ in range(2):
        await bench.up()
        await bench.host.stop(REVISION)
    await bench.up()
    assert len(list((tmp_path / "state").glob("apps/app/replicas/*"))) == 2


async def test_the_system_log_outlives_the_host(make_bench: Callable[..., Any]) -> None:
    bench = await make_bench()
    await bench.up()
    await bench.event("RevisionReady")
    await bench.host.emit("app", REVISION, "ContainerAppUpdate", "changed by a test")
    before = [record async for record in bench.host.system_log("app", tail=100)]
    await bench.host.close()
    again = await make_bench()
    after = [record async for record in again.host.system_log("app", tail=100)]
    assert after[: len(before)] == before
    assert before[-1].message == "changed by a test"
    assert after[len(before)].reason == "RevisionDeactivating"
