"""Start a live model from nothing: provision, push, deploy, and show how to use the result."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.config.settings import Flags, read_handover
from infra.errors import RemoteError
from infra.models.base_models import EXAMPLE
from infra.verbs.deploy import deploy
from infra.verbs.pause import resume
from infra.verbs.provision import provision
from infra.verbs.push import push
from infra.verbs.status import Status, find_status

if TYPE_CHECKING:
    from infra.session import Session

DEFAULT_PROMPT: Final = "What can you do?"
EXAMPLE_TOKENS: Final = 100
"""The token limit of the printed examples, low enough for a small machine."""


@dataclass(frozen=True, slots=True)
class UpResult:
    """A stage that serves, and how to use it.

    Attributes:
        status: What the stage serves.
        commands: The prefix of commands such as invoke, as the user types it: `.venv/bin/`.
        prompt: A prompt for the printed examples.
        is_changed: Whether anything was changed.
    """

    status: Status
    commands: str
    prompt: str
    is_changed: bool

    @property
    def model(self) -> str:
        """Return the name of the model to call in the API: the adapter, else the base model."""
        return self.status.adapters[0] if self.status.adapters else str(self.status.base_model)

    @property
    def key_command(self) -> str:
        """Return the command line that prints the API key."""
        return f"{self.commands}invoke key{self._stage_flag}"

    @property
    def down_command(self) -> str:
        """Return the command line that stops the stage."""
        return f"{self.commands}invoke down{self._stage_flag}"

    @property
    def _stage_flag(self) -> str:
        return f" --stage {self.status.stage}"

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        addresses = {"chat": f"{self.status.endpoint}/", "api": f"{self.status.endpoint}/v1"}
        commands = {"key_command": self.key_command, "down_command": self.down_command}
        return {
            **self.status.to_json(),
            **addresses,
            **commands,
            "model": self.model,
            "changed": self.is_changed,
        }

    def to_text(self) -> str:
        """Return the lines to print without `--json`: addresses, two examples to paste, and how to stop."""
        return f"""\
Chat   {self.status.endpoint}/
API    {self.status.endpoint}/v1   (model {self.model})
Key    {self.key_command}

Try it with curl:

  {curl_line(self)}

Or with the openai package:

{openai_snippet(self)}

Stop it all: {self.down_command}"""


def curl_line(up: UpResult) -> str:
    """Return a line that calls the model with curl, for a shell in the project's folder."""
    message = {"role": "user", "content": up.prompt}
    body = json.dumps({"model": up.model, "messages": [message], "max_tokens": EXAMPLE_TOKENS})
    return (
        f"curl --silent --show-error --fail-with-body {up.status.endpoint}/v1/chat/completions "
        f'--header "Authorization: Bearer $({up.key_command})" --header "Content-Type: application/json" '
        f"--data {shlex.quote(body)}"
    )


def openai_snippet(up: UpResult) -> str:
    """Return lines that call the model with the openai package, for the same shell."""
    return f"""\
OPENAI_API_KEY="$({up.key_command})" {up.commands}python - <<'PY'
from openai import OpenAI

client = OpenAI(base_url={up.status.endpoint + "/v1"!r})
answer = client.chat.completions.create(
    model={up.model!r},
    messages=[{{"role": "user", "content": {up.prompt!r}}}],
    max_tokens={EXAMPLE_TOKENS},
)
print(answer.choices[0].message.content)
PY"""


def up(
    session: Session,
    flags: Flags | None = None,
    *,
    adapter: Path | None = None,
    base: str | None = None,
    is_confirmed: bool = False,
) -> UpResult:
    """Start a stage from whatever state it is in, and return once it serves.

    Args:
        session: The opened stage.
        flags: The flags for provision.
        adapter: A folder with an adapter to serve; None for the fine-tuning step's, else the example's.
        base: Its base model: a folder, or an id.
        is_confirmed: Perform the plan of the provision without confirmation.

    Raises:
        FjarrError: A step failed. Its results are kept, and running `up` again continues from there.
    """
    provisioned = provision(session, flags, is_confirmed=is_confirmed)
    if provisioned.is_paused:
        resume(session)
    is_pushed = False
    if adapter is not None or base is not None or read_handover(session.root).subscription is None:
        is_pushed = push(session, adapter=adapter, base=base).has_changed
    deployed = deploy(session)
    status = find_status(session)
    if not status.ready:
        raise RemoteError(f"{status.app} was deployed but is not ready: {status.detail}", hint="invoke logs")
    is_changed = provisioned.is_changed or provisioned.is_paused or is_pushed or deployed.has_changed
    return UpResult(status, commands_folder(session.root), _prompt(status), is_changed)


def _prompt(status: Status) -> str:
    """Return the example's own prompt if the example is served, else a general one."""
    example = tomllib.loads((EXAMPLE / "example.toml").read_text(encoding="utf-8"))
    is_example = status.adapters[:1] == (example["name"],)
    return str(example.get("prompt", DEFAULT_PROMPT)) if is_example else DEFAULT_PROMPT


def commands_folder(root: Path) -> str:
    """Return the folder of invoke and python as typed in the project's folder, with a trailing slash."""
    inside = Path(".venv") / "bin"
    beside = Path(sys.executable).parent
    is_inside = (root / inside / "invoke").exists() and (root / inside).resolve() == beside.resolve()
    return f"{inside if is_inside else beside}/"
