"""What is killed: which process, at which moment, and what callers may see while it is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from scripts.chaos_parts.caller import Caller
from scripts.chaos_parts.ledger import Ledger

JUST_NOW_S = 0.3

Moment = Callable[[Ledger, Caller], bool]


def _jobs_in_flight(ledger: Ledger, caller: Caller) -> bool:
    return len(ledger.in_flight()) >= 2


def _removal_in_flight(ledger: Ledger, caller: Caller) -> bool:
    return _jobs_in_flight(ledger, caller) and caller.underway.get("remove", 0) > 0


def _job_just_begun(ledger: Ledger, caller: Caller) -> bool:
    since_s = time.monotonic() - JUST_NOW_S
    return any(entry.segmented_at_s is not None and entry.segmented_at_s > since_s for entry in ledger.in_flight())


def _job_being_filled(ledger: Ledger, caller: Caller) -> bool:
    return any(entry.stage in ("extracting", "filling") for entry in ledger.in_flight())


@dataclass(frozen=True)
class Fault:
    """One process, or all of them, killed with -9.

    Attributes:
        title: Regular expression of the process's title; empty for the whole service.
        moment: When it hurts.
        breaks_connections: Whether callers may see resets and the proxy's plain errors until all is normal again.
    """

    name: str
    title: str
    moment: Moment
    breaks_connections: bool = False

    @property
    def is_everything(self) -> bool:
        return not self.title


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("birefnet", r"ray::ServeReplica:[^:]*:BiRefNet", _removal_in_flight),
        Fault("mobilesam", r"ray::ServeReplica:[^:]*:MobileSAM", _job_just_begun),
        Fault("lama", r"ray::ServeReplica:[^:]*:LaMa", _job_being_filled),
        Fault("jobmanager", r"ray::ServeReplica:[^:]*:JobManager", _jobs_in_flight),
        Fault("ingress", r"ray::ServeReplica:[^:]*:Ingress", _removal_in_flight, breaks_connections=True),
        Fault("proxy", r"ray::ProxyActor", _removal_in_flight, breaks_connections=True),
        Fault("controller", r"ray::ServeController", _jobs_in_flight),
        Fault("everything", "", _jobs_in_flight, breaks_connections=True),
    )
}
"""In the order in which they strike."""
