"""Make versions of adapters live: write the index, and wait until every replica serves what it lists.

What is not served is turned back like code that is not: the index is again what it was, and the reason is
reported. Must be used with the deploy lock held.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infra.az.revision import VersionResponse
from infra.errors import RemoteError, UsageError, WaitTimeoutError
from infra.interrupts import noting
from infra.models.adapter_index import ADAPTER_INDEX, AdapterIndex, read_index, write_index
from infra.models.pickup import Applied, NeedsRestart, wait_until_applied
from infra.models.records import write_record
from infra.models.versions import delete_version, find_version
from infra.release.releases import read_current, set_proven
from infra.release.takeovers.outcome import NotServed, failure

if TYPE_CHECKING:
    from collections.abc import Collection

    from infra.models.versions import AdapterVersion
    from infra.release.lock import HeldLock
    from infra.release.rollout import Rollout
    from infra.share.protocol import Share


@dataclass(frozen=True, slots=True)
class AdapterOutcome:
    """How a change of adapters has ended.

    Attributes:
        is_live: Whether every replica was seen to serve it without a restart.
        is_restarted: Whether the live release was restarted, and seen to serve it.
        replicas: The replicas that were seen to serve it.
        proof: Where that was seen: at the app's `address`, or `inside` of its replicas; empty if nothing was.
    """

    is_live: bool = False
    is_restarted: bool = False
    replicas: tuple[str, ...] = ()
    proof: str = ""


@dataclass(frozen=True, slots=True)
class AdapterRollout:
    """Changes of the adapters that are live.

    Attributes:
        share: The share.
        rollout: Restarts the revision where that is needed.
        held: The deploy lock.
    """

    share: Share
    rollout: Rollout
    held: HeldLock

    def make_current(self, reference: str, *, keeps_previous: bool = False) -> AdapterOutcome:
        """Give an adapter's bare name to another version of it, such as `mine@2`.

        Raises:
            UsageError: The share has no such version, or it is the current one.
            RemoteError: A replica rejects it; the version before is current again.
            WaitTimeoutError: A replica does not serve it in time; the version before is current again.
        """
        version, before = find_version(self.share, reference), read_index(self.share)
        current = before.adapters.get(version.name)
        if current is not None and current.folder == version.folder:
            raise UsageError(f"{version.id} is the current version already", hint="invoke models --all")
        after = before.with_current(version, self._now(), keeps_previous=keeps_previous)
        return self.switch(before, after)

    def serve(self, reference: str) -> AdapterOutcome:
        """Serve a version beside the current one of its adapter, under its name with the number.

        Raises:
            UsageError: The share has no such version, or it is served.
            RemoteError: A replica rejects it; it is not served then.
            WaitTimeoutError: A replica does not serve it in time; it is not served then.
        """
        version, before = find_version(self.share, reference), read_index(self.share)
        if before.is_live(version):
            raise UsageError(f"{version.id} is live already", hint="invoke models")
        return self.switch(before, before.with_live(version, self._now()))

    def withdraw(self, reference: str) -> AdapterOutcome:
        """Serve a version no more, which stays on the share.

        Raises:
            UsageError: It is not live, or it is the current one.
        """
        version, before = find_version(self.share, reference), read_index(self.share)
        current = before.adapters.get(version.name)
        if current is not None and current.folder == version.folder:
            raise UsageError(
                f"{version.id} is the current version, which cannot be withdrawn",
                hint=f"make another one current with --current, or push --remove {version.name}",
            )
        if not before.is_live(version):
            raise UsageError(f"{version.id} is not live", hint="invoke models")
        return self.switch(before, before.withdrawn(version))

    def switch(
        self,
        before: AdapterIndex,
        after: AdapterIndex,
        new: AdapterVersion | None = None,
        *,
        restarts: bool = True,
        must_restart: bool = False,
    ) -> AdapterOutcome:
        """Make what an index lists live; what is not served is turned back.

        Args:
            before: What is live.
            after: What is to be live.
            new: A version that is removed from the share if it is not served.
            restarts: Whether a live release is waited for, and restarted where that is needed.
            must_restart: Whether it is restarted in any case, since something else has changed, too.

        Raises:
            RemoteError: A replica rejects an adapter, or crashes with it.
            WaitTimeoutError: A replica does not serve it in time.
        """
        self.held.check()
        live = read_current(self.share)
        if after == before:
            write_index(self.share, after)
        else:
            self.share.write(ADAPTER_INDEX, after.render())
        if live is None or not restarts:
            return AdapterOutcome()
        names = after.changed_names(before)
        try:
            with noting("it may still become live; run the same command again"):
                outcome = self._prove(after, names, must_restart=must_restart)
        except (RemoteError, WaitTimeoutError) as error:
            closing = self._turn_back(live, before, names, new)
            raise type(error)(error.message, details=(closing, *error.details), hint=error.hint) from error
        write_record(self.share, live, after)
        return outcome

    def apply(self, index: AdapterIndex) -> AdapterOutcome:
        """Write an index that takes adapters away, and return whether all replicas have done so."""
        write_index(self.share, index)
        if read_current(self.share) is None:
            return AdapterOutcome()
        try:
            outcome = wait_until_applied(self.rollout, index, ())
        except WaitTimeoutError as error:
            self.rollout.console.warn(f"{error.message}: {'; '.join(error.details)}")
            return AdapterOutcome()
        if isinstance(outcome, NeedsRestart):
            return AdapterOutcome()
        return AdapterOutcome(is_live=True, replicas=outcome.replicas, proof=outcome.proof)

    def restart(self, closing: str) -> str:
        """Restart a live release, and wait until it serves.

        Returns where that was seen, at the app's `address` or `inside`; empty if none is live.

        Args:
            closing: Describes the state of the stage if it does not serve.

        Raises:
            RemoteError: It crashes.
            WaitTimeoutError: It does not serve in time.
        """
        live = read_current(self.share)
        if live is None:
            return ""
        self.held.check()
        outcome = self.rollout.restart(live)
        if isinstance(outcome, NotServed):
            raise failure(outcome, live, closing)
        set_proven(self.share, live)
        if outcome.outage is not None:
            self.rollout.console.info(str(outcome.outage))
        return outcome.proof

    def prove(
        self, index: AdapterIndex, names: Collection[str], *, was_restarted: bool = True
    ) -> AdapterOutcome:
        """Wait until every replica serves an index, after a restart or a takeover.

        Args:
            index: The index.
            names: The names in the API that it has changed.
            was_restarted: Whether the revision was just restarted; if not, it is where an adapter needs that.

        Raises:
            RemoteError: A replica rejects an adapter.
            WaitTimeoutError: A replica does not serve it in time.
        """
        outcome = wait_until_applied(self.rollout, index, names)
        if isinstance(outcome, NeedsRestart) and outcome.reason and not was_restarted:
            self.rollout.console.info(f"a restart is needed: {outcome.reason}")
            return self._restart_with(index, names)
        if isinstance(outcome, NeedsRestart):
            self._check_without_index(index, names)
            return AdapterOutcome()
        self._warn_of_unserved(outcome)
        return AdapterOutcome(replicas=outcome.replicas, proof=outcome.proof)

    def _prove(self, index: AdapterIndex, names: Collection[str], *, must_restart: bool) -> AdapterOutcome:
        if not must_restart:
            outcome = wait_until_applied(self.rollout, index, names)
            if isinstance(outcome, Applied):
                self._warn_of_unserved(outcome)
                return AdapterOutcome(is_live=True, replicas=outcome.replicas, proof=outcome.proof)
            if outcome.reason:
                self.rollout.console.info(f"a restart is needed: {outcome.reason}")
        return self._restart_with(index, names)

    def _restart_with(self, index: AdapterIndex, names: Collection[str]) -> AdapterOutcome:
        proof = self.restart("it was started with the new weights")
        proven = self.prove(index, names)
        return replace(proven, is_restarted=True, proof=proven.proof or proof)

    def _check_without_index(self, index: AdapterIndex, names: Collection[str]) -> None:
        """Check what a server that reads no index says of the adapters that it has loaded at its start."""
        answer = self.rollout.app.version()
        failed = answer.failed_adapters if isinstance(answer, VersionResponse) else ()
        known = {*names, *(index.id_of(name) for name in names if name in index.adapters)}
        reasons = tuple(adapter.reason for adapter in failed if adapter.name in known)
        if reasons:
            raise RemoteError(
                "the server does not serve the adapter after a restart either",
                details=reasons,
                hint="correct it and push again; invoke models lists what is served",
            )

    def _warn_of_unserved(self, applied: Applied) -> None:
        for name in applied.unserved:
            self.rollout.console.warn(
                f"{name} is on the share and is not served: the parameter adapterPath names others"
            )

    def _turn_back(
        self, live: str, before: AdapterIndex, names: Collection[str], new: AdapterVersion | None
    ) -> str:
        """Make live what was before, and return a line that describes the state."""
        if not names:
            return "the new base model is on the share; push another to replace it"
        self.held.check()
        write_index(self.share, before.numbered(new) if new is not None else before)
        if new is not None:
            # Before a restart: a server that knows no versions would find it.
            delete_version(self.share, new)
        state = "; ".join(
            f"{before.id_of(name)} is live again" if name in before.adapters else f"{name} is not live"
            for name in sorted(names)
        )
        try:
            if isinstance(wait_until_applied(self.rollout, before, names), Applied):
                return f"turned back: {state}"
        except (RemoteError, WaitTimeoutError) as error:
            self.rollout.console.warn(f"{error.message}: the revision is restarted")
        outcome = self.rollout.restart(live)
        if isinstance(outcome, NotServed):
            return f"turned back: {state}, but {live} does not serve: {outcome.cause.reason}"
        return f"turned back: {state}, and {live} serves again"

    def _now(self) -> str:
        return self.rollout.clock.now().isoformat()
