"""Open a shell, or run another program, in a replica's container."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from infra.az.commands import app_exec
from infra.errors import RemoteError, UsageError

if TYPE_CHECKING:
    from infra.session import Session

SHELL: Final = "bash"


def open_shell(session: Session, program: str = SHELL, replica: str | None = None) -> None:
    """Run a program in a replica's container, on the user's terminal, until it ends.

    Args:
        session: The opened stage.
        program: The program, without arguments: Azure passes none on.
        replica: The replica's name; None for one that Azure chooses.

    Raises:
        UsageError: The stage is local, where replicas are processes of this machine, or there is no terminal.
        RemoteError: az ended with an error, which it has shown.
    """
    if session.stage.is_local:
        what = "the embedded Azure has no exec: its replicas are processes of this machine"
        files = session.stage.state_dir
        raise UsageError(what, hint=f"invoke status names them; their files are below {files}")
    if not sys.stdin.isatty():
        raise UsageError("exec needs a terminal for its input", hint="run it from a terminal")
    command = app_exec(session.group(), session.config().aca_app_name, program, replica)
    exit_code = session.runner.interact(command)
    if exit_code:
        hint = "invoke status shows the replicas; an image may have sh and no bash: --command sh"
        raise RemoteError(f"az ended with exit code {exit_code}", command=command.line, hint=hint)
