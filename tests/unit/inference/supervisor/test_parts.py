from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from inference.supervisor.parts import SUPERVISOR, changed_paths, find_change, part_of
from infra.release.takeovers import approach

ROOT = Path(__file__).parents[4]
OLD = {SUPERVISOR: "0", "inference/server.py": "1", "inference/engines/protocol.py": "2"}


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("inference/server.py", "server"),
        ("inference/__init__.py", "server"),
        ("inference/web/chat/page.py", "server"),
        ("inference/web/sign_in/sessions.py", "server"),
        ("inference/service/admission.py", "server"),
        ("inference/text/tools.py", "server"),
        ("inference/text/codec.py", "engine"),
        ("inference/control.py", "server"),
        ("inference/README.md", "server"),
        ("inference/engine_process.py", "engine"),
        ("inference/engines/protocol.py", "engine"),
        ("inference/engines/transformers/engine.py", "engine"),
        ("inference/models/merging.py", "engine"),
        ("inference/settings.py", "engine"),
        ("inference/startup.py", "engine"),
        ("inference/service/warm_up.py", "engine"),
        ("inference/requirements.txt", "packages"),
        ("inference/requirements-vllm-cpu.txt", "packages"),
        ("inference/start.py", "supervisor"),
        ("inference/listener.py", "supervisor"),
        ("inference/supervisor/page.py", "supervisor"),
        ("server/engines/of-somebody.py", "server"),
    ],
)
def test_each_file_belongs_to_one_part(path: str, part: str) -> None:
    assert part_of(path) == part


@pytest.mark.parametrize(
    ("changes", "change"),
    [
        ({}, "nothing"),
        ({"inference/server.py": "x"}, "server"),
        ({"inference/web/new.py": "x"}, "server"),
        ({"inference/supervisor/page.py": "x"}, "server"),
        ({"inference/engines/protocol.py": "x", "inference/server.py": "x"}, "engine"),
        ({"inference/engines/new.py": "x"}, "engine"),
        ({"inference/requirements.txt": "x", "inference/engines/protocol.py": "x"}, "packages"),
    ],
)
def test_the_larger_change_counts(changes: dict[str, str], change: str) -> None:
    assert find_change(OLD, OLD | changes) == change
    assert find_change(OLD | changes, OLD) == change


def test_a_removed_file_is_a_change() -> None:
    without = {path: digest for path, digest in OLD.items() if "engines" not in path}
    assert changed_paths(OLD, without) == ("inference/engines/protocol.py",)
    assert find_change(OLD, without) == "engine"


def test_a_release_without_a_supervisor_needs_a_restart_in_both_directions() -> None:
    without = {path: digest for path, digest in OLD.items() if path != SUPERVISOR}
    assert find_change(OLD, without) == find_change(without, OLD) == "restart"


def test_what_the_engine_s_process_imports_is_engine_code_or_only_types_of_the_server() -> None:
    graph = grimp.build_graph("inference")
    imported = {"inference.engine_process"} | graph.find_upstream_modules("inference.engine_process")
    names = {name for name in imported if part_of(f"{name.replace('.', '/')}.py") != "engine"}
    # These come along with the codec, the values of requests and the log. The engine calls the log's alone.
    assert names == {
        "inference.api_keys", "inference.observability.logs", "inference.service.forecast",
        "inference.service.lifecycle", "inference.service.logprobs", "inference.service.requests",
        "inference.text.detokenizer", "inference.text.grammar", "inference.text.json_schema",
        "inference.text.reasoning", "inference.text.schema_facts", "inference.text.shapes",
        "inference.text.tools",
    }  # fmt: skip


def test_the_supervisor_imports_the_standard_library_and_the_server_only() -> None:
    code = (
        "import sys; import inference.supervisor.__main__;"
        "files = [getattr(module, '__file__', None) or '' for module in sys.modules.values()];"
        "print([file for file in files if 'site-packages' in file])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def find_words(*paths: str) -> str:
    command = [sys.executable, "-m", "inference.supervisor.parts", *paths]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_pipeline_and_the_tree_agree_on_the_supervisor_s_file_and_on_the_words() -> None:
    assert approach.SUPERVISOR == SUPERVISOR
    assert (ROOT / SUPERVISOR).is_file()
    assert find_words("inference/server.py", "inference/engines/protocol.py") == "engine\n"
    assert find_words("inference/supervisor/child.py", "inference/start.py") == "server supervisor\n"
    assert set(approach.TEXTS) == {"nothing", "server", "engine", "packages"}
