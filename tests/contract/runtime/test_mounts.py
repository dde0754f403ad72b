"""Mounts of a replica: symlinks that are there while they are needed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.doubles.containers import REVISION

if TYPE_CHECKING:
    from pathlib import Path


async def test_mounts_a_directory_as_a_symlink_while_it_is_needed(bench: Any, tmp_path: Path) -> None:
    share, mount = tmp_path / "share", tmp_path / "deep" / "mount"
    share.mkdir()
    (share / "CURRENT").write_text("release")
    spec = bench.spec()
    container = replace(
        spec.container,
        mounts=((share, str(mount)),),
        args=("-c", f"cat '{mount}/CURRENT'; echo; exec python3 '{bench.server}'"),
    )
    await bench.up(replace(spec, container=container))
    assert mount.readlink() == share
    await bench.line("release")
    await bench.host.restart(REVISION)
    await bench.host.wait_ready(REVISION)
    await bench.event("ContainerTerminated")
    assert mount.is_symlink()
    await bench.host.stop(REVISION)
    assert not mount.is_symlink()
    assert (share / "CURRENT").exists()


async def test_a_mount_path_leads_to_one_place_at_a_time(bench: Any, tmp_path: Path) -> None:
    one, other, mount = tmp_path / "one", tmp_path / "other", tmp_path / "mount"
    one.mkdir()
    other.mkdir()
    spec = bench.spec()
    await bench.up(replace(spec, container=replace(spec.container, mounts=((one, str(mount)),))))
    second = replace(spec.container, mounts=((other, str(mount)),))
    await bench.host.run(replace(spec, revision="app--0000002", container=second))
    record = await bench.event("VolumeMountFailure")
    assert record.message == (
        f"mount path '{mount}' leads to '{one}', which another replica needs, and cannot lead to '{other}' "
        "too: stop that one's revision first, or choose another mountPath"
    )
    await bench.host.stop(REVISION)
    await bench.host.wait_ready("app--0000002")
    assert mount.readlink() == other


async def test_touches_nothing_that_stands_at_the_mount_path(bench: Any, tmp_path: Path) -> None:
    share, mount = tmp_path / "share", tmp_path / "mount"
    share.mkdir()
    mount.mkdir()
    (mount / "mine").write_text("precious")
    spec = bench.spec()
    await bench.host.run(replace(spec, container=replace(spec.container, mounts=((share, str(mount)),))))
    record = await bench.event("VolumeMountFailure", 2)
    assert record.message == f"mount path '{mount}' is taken: choose another, or move away what is there"
    assert bench.host.revision_state(REVISION)[:2] == ("Failed", "Unhealthy")
    assert (mount / "mine").read_text() == "precious"
    assert "ContainerCreated" not in await bench.events()
