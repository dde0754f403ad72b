"""The project's checks. `nox -s test` is all of them; each can be run alone.

The sessions share one environment, so that the dependencies (a few gigabytes) are installed once.
"""

from __future__ import annotations

import os
import shutil

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["test"]
nox.options.error_on_missing_interpreters = True

CHECKED = ("tasks.py", "noxfile.py", "infra", "inference", "localcloud", "examples", "tests", "docs")
SHARED = {"venv_location": ".nox/fjarr", "reuse_venv": True}

# Environments that this run of nox has already brought up to date.
installed: set[str] = set()


def install(session: nox.Session) -> None:
    """Install the project as its users do, with its developers' tools, at the versions that were tested."""
    if session.virtualenv.location not in installed:
        session.install("-c", "constraints.txt", "-e", ".[dev]", silent=False)
        installed.add(session.virtualenv.location)


@nox.session(**SHARED)
def test(session: nox.Session) -> None:
    """Run everything that CI runs: lint, types, unit and contract tests, then the slow sessions."""
    install(session)
    session.notify("lint")
    session.notify("types")
    session.notify("docs")
    session.notify("unit", session.posargs)
    session.notify("e2e")


@nox.session(**SHARED)
def lint(session: nox.Session) -> None:
    """Judge style, formatting and the arrows between the packages."""
    install(session)
    session.run("ruff", "check", *CHECKED)
    session.run("ruff", "format", "--check", *CHECKED)
    session.run("lint-imports")


@nox.session(**SHARED)
def types(session: nox.Session) -> None:
    """Judge types, strictly."""
    install(session)
    session.run("mypy")


@nox.session(**SHARED)
def docs(session: nox.Session) -> None:
    """Check that the generated parts of the documentation say what the code says."""
    install(session)
    session.run("python", "docs/generate.py")


@nox.session(**SHARED)
def unit(session: nox.Session) -> None:
    """Run the unit and contract tests; arguments after `--` go to pytest."""
    install(session)
    session.run("pytest", *(session.posargs or ("tests/unit", "tests/contract")))


@nox.session(**SHARED)
def e2e(session: nox.Session) -> None:
    """Do what the README says, with the real az, the real model and a real browser."""
    install(session)
    if "CI" in os.environ and shutil.which("chromium") is None:
        session.error("the end-to-end test drives Chromium: apt-get install chromium")
    session.run("pytest", "tests/e2e", *session.posargs)
