"""What a folder is on, by the kernel's list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.storage.filesystems import Mount, detect_storage, find_mount, parse_mounts

REPLICA = """\
1043 945 0:300 / / rw,relatime master:311 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
1044 1043 0:305 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1045 1043 0:306 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
1046 1045 0:308 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
1047 1043 0:70 / /mount rw,relatime shared:9 master:2 - cifs //account.file.core.windows.net/share rw
1048 1043 8:1 /data/emptydir /mount/cache rw,relatime - ext4 /dev/root rw,discard
1049 1043 0:71 / /nfs rw,relatime - nfs4 account.file.core.windows.net:/account/share rw,vers=4.1
1050 1043 0:72 / /with\\040blank rw,relatime - fuse.blobfuse2 blobfuse2 rw
1051 1043 0:73 / /over rw,relatime - nfs server:/first rw
1052 1043 0:74 / /over rw,relatime - ext4 /dev/sdc rw
1053 1043 0:75 / /plan9 rw,relatime - 9p host rw
"""


@pytest.mark.parametrize(
    ("path", "filesystem", "storage"),
    [
        ("/root/.cache", "overlay", "disk"),
        ("/dev/shm/weights", "tmpfs", "memory"),  # noqa: S108 - a path of the table
        ("/mount", "cifs", "network"),
        ("/mount/models/mine", "cifs", "network"),
        ("/mounted", "overlay", "disk"),
        ("/mount/cache/weights", "ext4", "disk"),
        ("/nfs/model-cache", "nfs4", "network"),
        ("/with blank/models", "fuse.blobfuse2", "network"),
        ("/over/there", "ext4", "disk"),
        ("/plan9", "9p", "network"),
    ],
)
def test_the_deepest_and_last_mount_of_a_path_counts(path: str, filesystem: str, storage: str) -> None:
    found = find_mount(parse_mounts(REPLICA), Path(path))
    assert found is not None
    assert (found.filesystem, found.storage) == (filesystem, storage)


def test_lines_of_another_form_are_left_out() -> None:
    text = "\n1 2 3\n36 35 98:0 / /here rw - \n40 35 98:0 / /a-b rw,x - ext4 /dev/a rw\n41 35 0:1 / /c rw -\n"
    assert parse_mounts(text)[-1] == Mount(Path("/a-b"), "ext4")
    assert find_mount((), Path("/a")) is None


def test_links_are_followed_and_a_folder_that_is_not_there_yet_has_its_parent_s(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "mount").symlink_to(share)
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / {share} rw - cifs //a/b rw\n", encoding="utf-8"
    )
    assert detect_storage(tmp_path / "mount/model-cache/none", table) == "network"
    assert detect_storage(tmp_path / "other", table) == "disk"


def test_where_the_kernel_does_not_say_a_folder_counts_as_a_disk(tmp_path: Path) -> None:
    assert detect_storage(tmp_path, tmp_path / "missing") == "disk"
    empty = tmp_path / "empty"
    empty.touch()
    assert detect_storage(tmp_path, empty) == "disk"


def test_this_machine_s_own_list_is_read() -> None:
    assert detect_storage(Path("/proc/self/mountinfo")) == "disk"
