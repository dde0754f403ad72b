"""Start a live model from nothing: provision, push, deploy, and show how to use the result."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.config.settings import Flags, read_handover
from infra.document import load_toml
from infra.errors import RemoteError, UsageError
from infra.models.adapter_index import read_index
from infra.models.base_models import EXAMPLE
from infra.models.weights import read_adapter
from infra.network import FAILURES
from infra.resources.api_keys import read_keys
from infra.resources.file_share import open_share
from infra.resources.first_answers import FirstAnswer, ask_models
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

_ANSWER_TOKENS: Final = 32
"""The token limit of the printed answers: what shows the difference, within a few seconds on a CPU."""

_ANSWER_COLUMNS: Final = 90


@dataclass(frozen=True, slots=True)
class UpResult:
    """A stage that serves, and how to use it.

    Attributes:
        status: What the stage serves.
        commands: The prefix of commands such as invoke, as the user types it: `.venv/bin/`.
        prompt: A prompt for the printed examples.
        is_changed: Whether anything was changed.
        answers: What the base model and the adapter answer to the prompt, if the example is served.
    """

    status: Status
    commands: str
    prompt: str
    is_changed: bool
    answers: tuple[FirstAnswer, ...] = ()

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
            "prompt": self.prompt,
            "answers": [asdict(answer) for answer in self.answers],
        }

    def to_text(self) -> str:
        """Return the lines to print without `--json`: addresses, answers, examples to paste, how to stop."""
        return f"""\
Chat   {self.status.endpoint}/
API    {self.status.endpoint}/v1   (model {self.model})
Key    {self.key_command}
{answers_text(self)}
{"Ask it" if self.answers else "Try it"} with curl:

  {curl_line(self)}

Or with the openai package:

{openai_snippet(self)}

Stop it all: {self.down_command}"""


def answers_text(up: UpResult) -> str:
    """Return the prompt and what each model answers to it; empty if no model was asked."""
    if not up.answers:
        return ""
    parts = [("A ticket:", up.prompt), *((f"{each.model} answers:", each.answer) for each in up.answers)]
    lines = (f"{title}\n\n{textwrap.indent(_wrapped(text), '  ')}\n" for title, text in parts)
    return "\n" + "\n".join(lines)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, _ANSWER_COLUMNS) for line in text.splitlines())


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
    if adapter is not None:
        read_adapter(adapter)  # what is wrong with it is known before anything is created and billed
    provisioned = provision(session, flags, is_confirmed=is_confirmed)
    if provisioned.is_paused:
        resume(session)
    is_pushed = False
    if adapter is not None or base is not None or _needs_example(session):
        is_pushed = push(session, adapter=adapter, base=base).has_changed
    deployed = deploy(session, bake_s=0.0)
    status = find_status(session)
    if not status.ready:
        raise RemoteError(f"{status.app} was deployed but is not ready: {status.detail}", hint="invoke logs")
    is_changed = provisioned.is_changed or provisioned.is_paused or is_pushed or deployed.has_changed
    prompt = _prompt(status)
    answers = () if prompt == DEFAULT_PROMPT else _first_answers(session, status, prompt)
    return UpResult(status, commands_folder(session.root), prompt, is_changed, answers)


def _needs_example(session: Session) -> bool:
    """Tell whether the example has to be pushed: the share has no adapter, or an earlier one of the example.

    Raises:
        UsageError: The share is the fine-tuning step's, which has left no adapter there yet.
    """
    with open_share(session) as share:
        newest = read_index(share).newest
    if newest is not None and newest != EXAMPLE.name:
        session.console.info(f"serving {newest}, which is on the share already")
        return False
    handover = read_handover(session.root)
    if newest is None and handover.is_of(session.group()):
        what = f"the fine-tuning step has left no adapter on the share {session.config().file_share_name}"
        raise UsageError(what, hint="run its job first, or add --adapter FOLDER")
    return True


def _first_answers(session: Session, status: Status, prompt: str) -> tuple[FirstAnswer, ...]:
    """Ask the base model and the adapter. A failure is a warning, because everything is live already."""
    models = (str(status.base_model), *status.adapters[:1])
    try:
        with session.console.step("ask the base model and the fine-tuned one"):
            keys = read_keys(session.az, session.group(), status.app)
            key = keys[0].value if keys else None
            return tuple(ask_models(status.endpoint, key, models, prompt, max_tokens=_ANSWER_TOKENS))
    except FAILURES as error:
        session.console.warn(f"the models were asked, and did not answer: {error}")
        return ()


def _prompt(status: Status) -> str:
    """Return the example's own prompt if the example is served, else a general one."""
    example = load_toml((EXAMPLE / "example.toml").read_text(encoding="utf-8"))
    is_example = status.adapters[:1] == (example["name"],)
    return str(example.get("prompt", DEFAULT_PROMPT)) if is_example else DEFAULT_PROMPT


def commands_folder(root: Path) -> str:
    """Return the folder of invoke and python as typed in the project's folder, with a trailing slash."""
    inside = Path(".venv") / "bin"
    beside = Path(sys.executable).parent
    is_inside = (root / inside / "invoke").exists() and (root / inside).resolve() == beside.resolve()
    return f"{inside if is_inside else beside}/"
