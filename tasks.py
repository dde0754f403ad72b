"""The command line: one Invoke task for each verb.

A task parses its flags, makes one call and prints one result; it holds no logic. `invoke --list` shows all
verbs, `invoke --help VERB` one of them.
"""
# ruff: noqa: PLC0415  # a verb imports only what it needs, so that --list answers at once
# ruff: noqa: A002, FBT001, FBT002  # Invoke derives flags from parameter names and booleans
# ruff: noqa: PLR0913, PLR0917  # each flag is a parameter

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context, Exit

from infra.command_line import check_arguments, default_stage, verb
from infra.command_line import show as _show

if TYPE_CHECKING:
    from infra.config.settings import Flags
    from infra.release.lock import LockAccess
    from infra.session import Session

ROOT = Path(__file__).resolve().parent
HAS_CHANGES = 10
REQUIREMENT_UNMET = 4

STAGE = "the target: azure, local (the embedded Azure), or a stage of infra/stages.toml; FJARR_STAGE sets it"
JSON = "print one JSON document on stdout and nothing else"
TARGET = {
    "subscription": "the Azure subscription, by id or name",
    "resource_group": "the resource group; created if it is missing",
    "location": "the region, such as swedencentral, in which to create a missing resource group",
    "set": "a parameter of infra/provision/inference.bicep as name=value; can be repeated. All of these are"
    " kept for the stage in infra/stages.toml",
    "unset": "take back a value that is kept for the stage; can be repeated",
    "yes": "perform the plan without asking, also if it resets what others set",
}
LOCK = "take the deploy lock from its current holder"
MOUNT = "the folder where the share is mounted on this machine, to write to it there with rsync"
BAKE = "how many seconds to watch the release after the proof: a crash then still turns it back (default: 15)"
LOCK_WAIT = "wait while another command holds the deploy lock, at most this many seconds (default: an hour)"
WAIT = "how many seconds to wait for the release to serve (default: 600 on local, 2400 on azure)"


@verb(
    iterable=["set", "unset"],
    help={
        "stage": STAGE,
        "adapter": "a folder with your LoRA adapter (default: fine-tuning's result, else the example's)",
        "base": "its base model: a folder, or an id on the hub (default: what the adapter names)",
        **TARGET,
        "json": JSON,
    },
)
def up(
    _: Context,
    stage: str = "azure",
    adapter: str | None = None,
    base: str | None = None,
    subscription: str | None = None,
    resource_group: str | None = None,
    location: str | None = None,
    set: list[str] | None = None,
    unset: list[str] | None = None,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Start a live model from nothing: provision, push, deploy, wait.

    Prints the addresses, the command for the API key and two examples to paste. A second run changes nothing.
    """
    from infra.verbs.up import up as run_up

    adapter_path = Path(adapter) if adapter else None
    flags = _flags(subscription, resource_group, location, set, unset)
    _show(run_up(_open(stage), flags, adapter=adapter_path, base=base, is_confirmed=yes), json)


@verb(
    iterable=["set", "unset"],
    help={
        "stage": STAGE,
        **TARGET,
        "force": "deploy everything again, also if nothing has to be changed",
        "dry_run": f"print the plan and change nothing; exit code {HAS_CHANGES} if it has changes",
        "json": JSON,
    },
)
def provision(
    _: Context,
    stage: str = "azure",
    subscription: str | None = None,
    resource_group: str | None = None,
    location: str | None = None,
    set: list[str] | None = None,
    unset: list[str] | None = None,
    yes: bool = False,
    force: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Create the Azure resources, or update them.

    Prints a plan first, and asks on a terminal. Reads infra/provision/inference.parameters.json and the
    configuration of the fine-tuning step; writes infra/inference.config.json. Shared resources that exist are
    only added to, and what others have configured on the app stays.
    """
    from infra.verbs.provision import plan_provision
    from infra.verbs.provision import provision as run_provision

    flags = _flags(subscription, resource_group, location, set, unset)
    if not dry_run:
        _show(run_provision(_open(stage), flags, is_confirmed=yes, is_forced=force), json)
        return
    plan = plan_provision(_open(stage), flags, is_forced=force)
    _show(plan, json)
    if plan.has_changes:
        raise Exit(code=HAS_CHANGES)


@verb(
    iterable=["min"],
    optional=["wait"],
    help={
        "stage": STAGE,
        "adapter": "a folder with your LoRA adapter (default: the example's)",
        "base": "its base model: a folder, or an id on the hub (default: what the adapter names)",
        "name": "the adapter's name on the share and in the API (default: its folder's name)",
        "mount": MOUNT,
        "remove": "an adapter to remove with all its versions, or one version NAME@NUMBER, instead of a push",
        "keep_previous": "keep the version before live beside the new one, as NAME@NUMBER",
        "gate": "a file with examples: push only if the adapter passes them beside the live one; exit code 4",
        "min": "what --gate requires, as METRIC=NUMBER; can be repeated",
        "not_worse_than": "what --gate compares with: live (the default without --min), or a served model",
        "timeout": WAIT,
        "wait": LOCK_WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def push(
    _: Context,
    stage: str = "azure",
    adapter: str | None = None,
    base: str | None = None,
    name: str | None = None,
    mount: str | None = None,
    remove: str | None = None,
    keep_previous: bool = False,
    gate: str | None = None,
    min: list[str] | None = None,
    not_worse_than: str | None = None,
    timeout: int = 0,
    wait: str | None = None,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Upload weights to the share: an adapter and its base model.

    Each push of other files makes a new version of the adapter, which every replica serves without a restart
    where it can; another base model restarts it. Other adapters stay.
    """
    from infra.errors import UsageError
    from infra.verbs.push import push as run_push
    from infra.verbs.push import remove as run_remove

    path, timeout_s, access = Path(adapter) if adapter else None, timeout or None, _access(wait, break_lock)
    if gate is None and (min or not_worse_than):
        raise UsageError("--min and --not-worse-than go with --gate", hint="--gate DATA.jsonl")
    if gate is not None and keep_previous:
        raise UsageError("--keep-previous does not go with --gate", hint="invoke models --serve NAME@NUMBER")
    if gate is not None and remove is None:
        from infra.verbs.gate import load_gate, push_gated

        requirements = load_gate(Path(gate), min or (), not_worse_than)
        gated = push_gated(
            _open(stage, mount=mount), requirements, adapter=path, base=base, name=name, timeout_s=timeout_s,
            access=access,
        )  # fmt: skip
        _show(gated, json)
        if gated.pushed is None:
            raise Exit(code=REQUIREMENT_UNMET)
        return
    session = _open(stage, mount=mount)
    if remove is not None:
        if adapter or base or name or gate or keep_previous:
            flags = "--adapter, --base, --name, --gate and --keep-previous"
            raise UsageError(f"--remove does not go with {flags}")
        _show(run_remove(session, remove, timeout_s=timeout_s, access=access), json)
        return
    pushed = run_push(
        session, adapter=path, base=base, name=name, publication="keep" if keep_previous else "replace",
        timeout_s=timeout_s, access=access,
    )  # fmt: skip
    _show(pushed, json)


@verb(
    optional=["wait"],
    help={
        "stage": STAGE,
        "serve": "serve a version of an adapter beside the current one: NAME@NUMBER",
        "withdraw": "stop serving a version beside the current one; it stays on the share",
        "current": "make a version the current one, which the bare name means",
        "all": "list the versions on the share, live or not",
        "timeout": WAIT,
        "wait": LOCK_WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def models(
    _: Context,
    stage: str = "azure",
    serve: str | None = None,
    withdraw: str | None = None,
    current: str | None = None,
    all: bool = False,
    timeout: int = 0,
    wait: str | None = None,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """List the models that are served, or change which versions of adapters are."""
    from infra.errors import UsageError
    from infra.verbs.models import Change, change_version, find_models, find_stored

    flags: dict[Change, str | None] = {"serve": serve, "withdraw": withdraw, "current": current}
    changes = [(change, reference) for change, reference in flags.items() if reference is not None]
    if len(changes) + all > 1:
        raise UsageError("--serve, --withdraw, --current and --all do not go together")
    if all:
        _show(find_stored(_open(stage, starts=False)), json)
        return
    if not changes:
        _show(find_models(_open(stage, starts=False)), json)
        return
    ((change, reference),) = changes
    session, access = _open(stage, starts=False), _access(wait, break_lock)
    _show(change_version(session, change, reference, timeout_s=timeout or None, access=access), json)


@verb(
    optional=["wait"],
    help={
        "stage": STAGE,
        "force": "create a new release, even if this code is live already",
        "restart": "replace the replicas, which gives their GPUs back, instead of the code in them",
        "plan": f"print what would change and change nothing; exit code {HAS_CHANGES} if there are changes",
        "watch": "deploy again whenever a file of inference/ is saved, until Ctrl-C; without --bake",
        "mount": MOUNT,
        "timeout": WAIT,
        "bake": BAKE,
        "wait": LOCK_WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def deploy(
    _: Context,
    stage: str = "azure",
    force: bool = False,
    restart: bool = False,
    plan: bool = False,
    watch: bool = False,
    mount: str | None = None,
    timeout: int = 0,
    bake: int = 15,
    wait: str | None = None,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Upload inference/ to the share as a release, and wait until every replica has taken it over.

    If the new release does not serve, the previous one is restored.
    """
    from infra.verbs.deploy import deploy as run_deploy
    from infra.verbs.deploy import plan_deploy, watch_deploy

    if not plan:
        access, timeout_s = _access(wait, break_lock), timeout or None
        session = _open(stage, mount=mount)
        if watch:
            watch_deploy(session, timeout_s=timeout_s, access=access)
        deployed = run_deploy(
            session,
            force=force,
            restart=restart,
            timeout_s=timeout_s,
            access=access,
            bake_s=float(bake),
        )
        _show(deployed, json)
        return
    planned = plan_deploy(_open(stage, mount=mount))
    _show(planned, json)
    if planned.has_changes:
        raise Exit(code=HAS_CHANGES)


@verb(help={"stage": STAGE, "json": JSON})
def releases(_: Context, stage: str = "azure", json: bool = False) -> None:
    """List the releases on the share: when, by whom, of which commit, proven, live."""
    from infra.verbs.releases import find_releases

    _show(find_releases(_open(stage, starts=False)), json)


@verb(help={"stage": STAGE, "tail": "how many of the newest changes to print", "json": JSON})
def audit(_: Context, stage: str = "azure", tail: int = 20, json: bool = False) -> None:
    """Print who changed the stage's share, when, and how it ended."""
    from infra.verbs.releases import find_changes

    _show(find_changes(_open(stage, starts=False), tail), json)


@verb(
    optional=["wait"],
    help={
        "to": "the release's id, or its beginning or end (default: the one that served before)",
        "stage": STAGE,
        "restart": "replace the replicas, which gives their GPUs back, instead of the code in them",
        "timeout": WAIT,
        "bake": BAKE,
        "wait": LOCK_WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def rollback(
    _: Context,
    stage: str = "azure",
    to: str = "",
    restart: bool = False,
    timeout: int = 0,
    bake: int = 15,
    wait: str | None = None,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Make an earlier release live again, and wait until it serves."""
    from infra.verbs.rollback import roll_back

    access, timeout_s = _access(wait, break_lock), timeout or None
    rolled_back = roll_back(
        _open(stage), to, wants_restart=restart, timeout_s=timeout_s, access=access, bake_s=float(bake)
    )
    _show(rolled_back, json)


@verb(
    optional=["wait"],
    help={"stage": STAGE, "timeout": WAIT, "wait": LOCK_WAIT, "break_lock": LOCK, "json": JSON},
)
def restart(
    _: Context,
    stage: str = "azure",
    timeout: int = 0,
    wait: str | None = None,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Restart the replicas, and wait until the live release serves again."""
    from infra.verbs.rollback import restart as run_restart

    access, timeout_s = _access(wait, break_lock), timeout or None
    _show(run_restart(_open(stage), timeout_s=timeout_s, access=access), json)


@verb(
    optional=["wait"],
    help={
        "stage": STAGE,
        "keep": "how many of the newest releases stay (default: 10); the live one and the last three that"
        " were proven always do",
        "wait": LOCK_WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def prune(
    _: Context,
    stage: str = "azure",
    keep: int = 10,
    wait: str | None = None,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Remove old releases and versions of adapters, and what interrupted deployments left."""
    from infra.verbs.releases import prune_releases

    _show(prune_releases(_open(stage, starts=False), keep, _access(wait, break_lock)), json)


@verb(help={"stage": STAGE, "message": "what for; others are shown it", "json": JSON})
def lock(_: Context, stage: str = "azure", message: str = "locked by hand", json: bool = False) -> None:
    """Keep everybody from changing the stage, until invoke unlock."""
    from infra.verbs.lock import take_lock

    _show(take_lock(_open(stage, starts=False), message), json)


@verb(
    help={"stage": STAGE, "break_lock": "also release the lock of a command that runs", "json": JSON},
)
def unlock(_: Context, stage: str = "azure", break_lock: bool = False, json: bool = False) -> None:
    """Release the lock of invoke lock, whoever took it."""
    from infra.verbs.lock import release_lock

    _show(release_lock(_open(stage, starts=False), break_lock=break_lock), json)


@verb(help={"stage": STAGE, "json": JSON})
def status(_: Context, stage: str = "azure", json: bool = False) -> None:
    """Show what is live: endpoint, release, revision, replicas, model."""
    from infra.verbs.status import find_status

    _show(find_status(_open(stage, starts=False)), json)


@verb(
    help={
        "stage": STAGE,
        "follow": "print new lines until Ctrl-C; reconnects automatically",
        "tail": "how many past lines of each log to print, 0 to 300",
        "kind": "console (the server's output), system (the platform's events), or all",
        "json": "print the records as one JSON list; with --follow, one JSON object per line",
    },
)
def logs(
    _: Context,
    stage: str = "azure",
    follow: bool = False,
    tail: int = 100,
    kind: str = "all",
    json: bool = False,
) -> None:
    """Print the logs of all replicas and the platform's events."""
    from infra.verbs.logs import follow_logs, parse_kinds, read_logs

    kinds = parse_kinds(kind)
    session = _open(stage, starts=False)
    if follow:
        for record in follow_logs(session, tail=tail, kinds=kinds):
            print(json_format.dumps(record.to_json()) if json else record.to_text(), flush=True)
        return
    records = read_logs(session, tail=tail, kinds=kinds)
    if json:
        print(json_format.dumps([record.to_json() for record in records], indent=2))
    for record in () if json else records:
        print(record.to_text())


@verb(
    name="exec",
    help={
        "stage": STAGE,
        "command": "the program to run, without arguments",
        "replica": "the replica's name, as invoke status shows it (default: one that Azure chooses)",
    },
)
def run_in_replica(
    _: Context, stage: str = "azure", command: str = "bash", replica: str | None = None
) -> None:
    """Open a shell in a replica's container, on Azure."""
    from infra.verbs.exec import open_shell

    open_shell(_open(stage, starts=False), command, replica)


@verb(name="open", help={"stage": STAGE})
def open_chat(_: Context, stage: str = "azure") -> None:
    """Open the chat in a browser, and print its address."""
    from infra.verbs.open import open_page

    print(open_page(_open(stage, starts=False)))


@verb(
    help={
        "stage": STAGE,
        "add": "make a further key with this name, and print it",
        "rotate": "replace the key with this name, and print the new one",
        "remove": "remove the key with this name",
        "list": "print the names of the keys, without the keys",
        "stdin": "with --add and --rotate: read the key from standard input instead of making a random one",
        "json": JSON,
    },
)
def key(
    _: Context,
    stage: str = "azure",
    add: str | None = None,
    rotate: str | None = None,
    remove: str | None = None,
    list: bool = False,
    stdin: bool = False,
    json: bool = False,
) -> None:
    """Print the API key, or change the keys, which restarts nothing."""
    from infra.verbs.key import change_key, find_keys, find_names, read_value, select_action

    chosen = select_action(add=add, rotate=rotate, remove=remove, lists=list, has_value=stdin)
    session = _open(stage, starts=False)
    if chosen is None:
        _show(find_names(session) if list else find_keys(session), json)
        return
    action, name = chosen
    _show(change_key(session, action, name, read_value() if stdin else None), json)


@verb(
    # Invoke has no optional positional arguments, and `secret list` has no name.
    positional=["action"] if "list" in sys.argv else ["action", "name"],
    help={
        "action": "set, list or remove",
        "name": "the environment variable that the server gets, such as HF_TOKEN",
        "stage": STAGE,
        "timeout": WAIT,
        "json": JSON,
    },
)
def secret(
    _: Context,
    action: str,
    name: str | None = None,
    stage: str = "azure",
    timeout: int = 0,
    json: bool = False,
) -> None:
    """Set, list or remove secrets of the server.

    The value is read from a prompt, or from standard input. A live server is restarted to get it.
    """
    from infra.verbs.secret import ask_for_value, check_action, list_secrets, remove_secret, set_secret

    checked = check_action(action, name)
    session, timeout_s = _open(stage, starts=False), timeout or None
    if checked == "list":
        _show(list_secrets(session), json)
    elif checked == "set":
        _show(set_secret(session, str(name), ask_for_value(str(name)), timeout_s), json)
    else:
        _show(remove_secret(session, str(name), timeout_s), json)


@verb(
    name="stage",
    # Invoke has no optional positional arguments, and `stage list` has no name.
    positional=["action"] if "list" in sys.argv else ["action", "name"],
    help={"action": "list or show", "name": "the stage to show", "json": JSON},
)
def stage_(_: Context, action: str, name: str | None = None, json: bool = False) -> None:
    """List the stages, or show one: where it is, and the settings that are kept for it."""
    from infra.verbs.stage import check_action, list_stages, show_stage

    if check_action(action) == "list":
        _show(list_stages(ROOT, default_stage(os.environ)), json)
    else:
        _show(show_stage(ROOT, name or default_stage(os.environ)), json)


@verb(
    positional=["action"],
    help={
        "action": "env: print what a shell needs to use az and the SDKs with the local cloud",
        "stage": STAGE,
        "json": JSON,
    },
)
def cloud(_: Context, action: str, stage: str = "local", json: bool = False) -> None:
    """Use the local cloud from a shell: eval "$(invoke cloud env)".

    The variables point az and the Azure SDKs at the local cloud, with its credentials.
    """
    from infra.verbs.cloud import check_action, find_environment

    check_action(action)
    _show(find_environment(_open(stage, starts=False)), json)


@verb(help={"stage": STAGE, "json": JSON})
def pause(_: Context, stage: str = "azure", json: bool = False) -> None:
    """Stop the replicas, and the bill for them; all data stays.

    The storage of the weights and the logs is still billed, and is listed. resume starts the stage again; a
    GPU that was given back may not be free then.
    """
    from infra.verbs.pause import pause as run_pause

    _show(run_pause(_open(stage, starts=False)), json)


@verb(help={"stage": STAGE, "timeout": WAIT, "json": JSON})
def resume(_: Context, stage: str = "azure", timeout: int = 0, json: bool = False) -> None:
    """Start the replicas of a paused stage, and wait until it serves."""
    from infra.verbs.pause import resume as run_resume

    _show(run_resume(_open(stage, starts=False), timeout_s=timeout or None), json)


@verb(
    help={
        "stage": STAGE,
        "subscription": TARGET["subscription"],
        "resource_group": "the resource group of the stage, where this machine does not know it",
        "yes": "azure: delete without asking",
        "purge": "local: also delete the data on disk",
        "delete_foreign_data": "azure: delete the storage account also if others keep shares or blobs in it",
        "json": JSON,
    },
)
def down(
    _: Context,
    stage: str = "azure",
    subscription: str | None = None,
    resource_group: str | None = None,
    yes: bool = False,
    purge: bool = False,
    delete_foreign_data: bool = False,
    json: bool = False,
) -> None:
    """Stop or delete everything, and list what remains and is still billed.

    On local: stops the replicas and the local cloud, and keeps the data unless --purge is given. On azure:
    asks for confirmation, then deletes the resources that provision created and no others. What cannot be
    deleted does not stop the rest.
    """
    from infra.verbs.down import down as run_down

    flags = _flags(subscription, resource_group, None, None, None)
    session = _open(stage, starts=False, needs_az=False)
    result = run_down(session, flags, is_confirmed=yes, is_purged=purge, deletes_foreign=delete_foreign_data)
    _show(result, json)
    result.require_completeness()


@verb(
    iterable=["model", "min"],
    help={
        "data": "a .jsonl file (chat messages, or a prompt and the expected answer) or a .csv file",
        "stage": STAGE,
        "model": "a model to evaluate, as NAME or NAME@URL; can be repeated, the baseline first (default: all"
        " that the endpoint lists)",
        "endpoint": "the address of any OpenAI-compatible server, in the stage's place",
        "key_variable": "the environment variable with the key for --endpoint and NAME@URL",
        "question": "the field with what is asked (default: messages, input, prompt or question)",
        "expected": "the field with the expected answer (default: expected, ideal, completion, answer, ...)",
        "system": "a system message to put before every question",
        "regex": "score whether answers match; a group in it is compared with the expected answer",
        "tolerance": "score the last number of answers, with this relative tolerance",
        "judge": "a model that scores the answers, as NAME or NAME@URL",
        "judge_prompt": "a file with the judge's instructions",
        "max_tokens": "the most tokens of an answer",
        "temperature": "0 takes the likeliest tokens, so that the answers can be repeated",
        "seed": "the seed of the sampling; 0 sends none",
        "concurrency": "how many requests to send at once",
        "limit": "use the first examples only; 0 uses all",
        "resume": "the folder of an evaluation that was interrupted; only what it lacks is asked",
        "min": "METRIC=NUMBER; exit with 4 if a model other than the baseline scores less; can be repeated",
        "not_worse": "exit with 4 if a model is worse than the baseline by more than chance explains",
        "json": JSON,
    },
)
def evaluate(
    _: Context,
    data: str,
    stage: str = "azure",
    model: list[str] | None = None,
    endpoint: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    question: str | None = None,
    expected: str | None = None,
    system: str | None = None,
    regex: str | None = None,
    tolerance: float = 0.0,
    judge: str | None = None,
    judge_prompt: str | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    concurrency: int = 8,
    limit: int = 0,
    resume: str | None = None,
    min: list[str] | None = None,
    not_worse: bool = False,
    json: bool = False,
) -> None:
    """Evaluate models on examples, and compare them: a table, and a report as one HTML file.

    The first model is the baseline, by default the base model. The report has every answer, the worst first.
    """
    from infra.console import Console
    from infra.evaluation.asking import Options
    from infra.evaluation.examples import Columns
    from infra.verbs.evaluate import EvaluationRequest
    from infra.verbs.evaluate import evaluate as run_evaluate

    request = EvaluationRequest(
        Path(data), tuple(model or ()), endpoint, key_variable, Columns(question, expected, system),
        limit or None, regex, tolerance or None, judge, Path(judge_prompt) if judge_prompt else None,
        Options(max_tokens, temperature, seed or None), concurrency, Path(resume) if resume else None,
        resume is not None, tuple(min or ()), not_worse,
    )  # fmt: skip
    session = _open(stage, starts=False) if request.needs_stage else None
    results = run_evaluate(request, ROOT, Console(), session)
    _show(results, json)
    if results.unmet:
        raise Exit(code=REQUIREMENT_UNMET)


@verb(
    iterable=["model", "clients"],
    help={
        "stage": STAGE,
        "model": "a model to ask; can be repeated, they take turns (default: the last one that is listed)",
        "endpoint": "the address of any OpenAI-compatible server, in the stage's place",
        "key_variable": "the environment variable with the key for --endpoint",
        "first_token": "the goal: how many seconds 95 % of the answers may take to begin",
        "think_time": "how many seconds a person waits between an answer and the next question",
        "clients": "measure this number of clients in place of the search; can be repeated",
        "max_clients": "the most clients that the search tries",
        "time_limit": "after how many seconds no further load begins",
        "requests": "how many requests each load has (default: two for each client, at least 16)",
        "max_tokens": "the length of the answers",
        "data": "a file with examples to ask, as for evaluate (default: made-up texts)",
        "plot": "a file for a plot, .png, .svg or .pdf; needs matplotlib",
        "json": JSON,
    },
)
def bench(
    _: Context,
    stage: str = "azure",
    model: list[str] | None = None,
    endpoint: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    first_token: float = 2.0,
    think_time: float = 30.0,
    clients: list[str] | None = None,
    max_clients: int = 256,
    time_limit: int = 300,
    requests: int = 0,
    max_tokens: int = 64,
    data: str | None = None,
    plot: str | None = None,
    json: bool = False,
) -> None:
    """Measure the speed of an endpoint, and how many users it holds.

    Adds clients until answers begin too late. A client sends its next question as soon as it has an answer.
    """
    from infra.console import Console
    from infra.verbs.bench import BenchRequest, parse_levels
    from infra.verbs.bench import bench as run_bench

    request = BenchRequest(
        tuple(model or ()), endpoint, key_variable, first_token, think_time, parse_levels(clients or ()),
        max_clients, time_limit, requests or None, max_tokens, Path(data) if data else None,
        Path(plot) if plot else None,
    )  # fmt: skip
    session = None if endpoint else _open(stage, starts=False)
    result = run_bench(request, Console(), session)
    _show(result, json)
    if result.found.is_interrupted:
        raise KeyboardInterrupt


@verb(
    help={
        "stage": STAGE,
        "location": "also check which GPU profiles this region offers, and the quota",
        "json": JSON,
    },
)
def doctor(_: Context, stage: str = "azure", location: str | None = None, json: bool = False) -> None:
    """Check prerequisites and print the command that fixes each problem."""
    from infra.verbs.doctor import diagnose

    diagnosis = diagnose(_open(stage, starts=False, needs_az=False), location=location)
    _show(diagnosis, json)
    diagnosis.require_health()


@verb(
    help={
        "source": "the remote or the address of Fjarr (default: the remote fjarr, else origin)",
        "to": "the tag or the branch to merge (default: the newest version)",
        "base": "the tag or the commit that this project was made from, if it has no history of Fjarr",
        "json": JSON,
    },
)
def upgrade(
    _: Context,
    source: str | None = None,
    to: str | None = None,
    base: str | None = None,
    json: bool = False,
) -> None:
    """Merge a newer version of Fjarr under what you have edited.

    Commits the merge, and prints what to run next. Files that are yours keep your edits. Where the new
    version and you have changed the same lines of Fjarr's code, git marks them, and nothing is committed.
    """
    from infra.console import Console
    from infra.process import Runner
    from infra.verbs.upgrade import upgrade as run_upgrade

    runner = Runner(dict(os.environ), ROOT)
    _show(run_upgrade(runner, Console(), source=source, target=to, base=base), json)


@verb(
    help={
        "upgrade": "take the newest versions that the requirements allow, but for those in constraints.txt",
        "json": JSON,
    },
)
def relock(_: Context, upgrade: bool = False, json: bool = False) -> None:
    """Make the locks of the server's packages anew, after a change of inference/requirements*.txt."""
    from infra.console import Console
    from infra.process import Runner
    from infra.verbs.relock import make_locks

    runner = Runner(dict(os.environ), ROOT)
    _show(make_locks(runner, Console(), ROOT, upgrade=upgrade), json)


def _open(stage: str, *, starts: bool = True, needs_az: bool = True, mount: str | None = None) -> Session:
    from infra.console import Console
    from infra.session import open_session, with_mount

    session = open_session(ROOT, stage, Console(), start_cloud=starts, needs_az=needs_az)
    return with_mount(session, mount)


def _access(wait: str | bool | None, breaks: bool) -> LockAccess:
    from infra.release.lock import parse_access

    return parse_access(wait=wait, breaks=breaks)


def _flags(
    subscription: str | None,
    resource_group: str | None,
    location: str | None,
    parameters: list[str] | None,
    unset: list[str] | None,
) -> Flags:
    from infra.config.settings import Flags

    return Flags(subscription, resource_group, location, tuple(parameters or ()), tuple(unset or ()))


check_arguments(sys.argv, sys.modules[__name__])
