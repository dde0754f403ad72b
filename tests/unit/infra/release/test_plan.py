"""What travels to the share, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.release.manifest import FileEntry, Manifest, hash_bytes
from infra.release.plan import Copy, make_plan


def manifest(**files: bytes) -> Manifest:
    entries = (hash_bytes(content, f"inference/{name}") for name, content in files.items())
    return Manifest(tuple(sorted(entries)))


def entry(name: str, content: bytes) -> FileEntry:
    return hash_bytes(content, f"inference/{name}")


def test_the_first_release_uploads_everything() -> None:
    plan = make_plan(manifest(a=b"1", b=b"22"), None)
    assert plan.uploads == (entry("a", b"1"), entry("b", b"22"))
    assert plan.lines() == ("upload 2 files (3 bytes)",)


def test_only_what_changed_crosses_the_network() -> None:
    live = manifest(same=b"same", other=b"old", gone=b"gone")
    plan = make_plan(manifest(same=b"same", other=b"new!", new=b"fresh"), live)
    assert plan.added == (entry("new", b"fresh"),)
    assert plan.changed == (entry("other", b"new!"),)
    assert plan.copies == (Copy("inference/same", entry("same", b"same")),)
    assert plan.removed == ("inference/gone",)
    assert plan.has_changes
    assert plan.lines() == (
        "upload 2 files (9 bytes), copy 1 on the share (4 bytes), leave out 1",
        "  - inference/gone",
        "  + inference/new  5 bytes",
        "  ~ inference/other  4 bytes",
    )


def test_a_file_that_moved_is_copied_from_where_it_was() -> None:
    plan = make_plan(manifest(new_name=b"same"), manifest(old_name=b"same"))
    assert plan.copies == (Copy("inference/old_name", entry("new_name", b"same")),)
    assert plan.uploads == ()
    assert plan.has_changes


def test_two_files_with_the_content_of_one_are_both_copied() -> None:
    plan = make_plan(manifest(a=b"x", b=b"x"), manifest(a=b"x"))
    assert plan.copies == (Copy("inference/a", entry("a", b"x")), Copy("inference/a", entry("b", b"x")))


def test_the_same_tree_has_no_changes() -> None:
    live = manifest(a=b"1", b=b"2")
    plan = make_plan(live, live)
    assert not plan.has_changes
    assert plan.upload_bytes == 0
    assert plan.copy_bytes == 2


def test_a_long_plan_is_cut() -> None:
    plan = make_plan(manifest(**{f"f{number:02}": b"" for number in range(23)}), manifest(same=b"1"))
    assert len(plan.lines()) == 1 + 20 + 1
    assert plan.lines()[-1] == "  ... and 4 more"


TREES = st.dictionaries(st.sampled_from("abcde"), st.binary(max_size=1)).map(lambda files: manifest(**files))


@given(TREES, TREES)
def test_uploads_and_copies_together_make_the_new_tree(local: Manifest, live: Manifest) -> None:
    plan = make_plan(local, live)
    held = {each.path: each for each in live.files}
    made = [*plan.uploads, *(copy.entry for copy in plan.copies)]
    assert sorted(made) == sorted(local.files)
    assert all(held[copy.source].sha256 == copy.entry.sha256 for copy in plan.copies)
    assert plan.has_changes == (local.digest != live.digest)
