"""Words: what a bill and a proof say besides their numbers, for people, and the proof for programs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tokentrace.ledger.formats import usd
from tokentrace.ledger.gaps import hours
from tokentrace.ledger.proof import Proof
from tokentrace.ledger.query import Bill, closing_day
from tokentrace.ledger.store import RollupGap
from tokentrace.model.snapshot import Group

#: Differences that the lines of a proof name.
_MOST_NAMED = 20


def notes(bill: Bill) -> Iterator[str]:
    """Return the lines below a bill: its period, what was booked late, corrections, and what may be missing."""
    period = bill.period
    yield f"From {period.begins.isoformat()} to before {period.ends.isoformat()} ({period.zone.key})."
    if not bill.rows:
        yield "No call is in this bill; `tokentrace ledger status` shows the hours that the ledger has."
    yield "Costs are exact sums of nano-USD; nothing is rounded after the price of each call."
    if bill.committed_at_us:
        moment = datetime.fromtimestamp(bill.committed_at_us / 1e6, UTC)
        yield f"The ledger has all commits of the workers up to {moment:%Y-%m-%d %H:%M:%S} UTC."
    yield from changes(bill)
    yield from map(incomplete, bill.gaps)


def changes(bill: Bill) -> Iterator[str]:
    """Return the lines that say what changed a bill: what was booked late, and corrections."""
    closed = datetime.fromtimestamp(closing_day(bill.period) * 86_400, UTC)
    if bill.late.get("spans"):
        yield (
            f"Booked after {closed:%Y-%m-%d} (UTC), when the period was closed: {usd(bill.late['cost_nano_usd'])} USD "
            f"of {bill.late['spans']:,} spans. --by booked shows the days."
        )
    if bill.corrections:
        yield f"Corrections have added {usd(bill.corrections)} USD."


def incomplete(gap: RollupGap) -> str:
    """Return the line of a gap."""
    return f"Incomplete: {hours(gap)} lack rollups ({gap.reason})."


def proof_lines(proof: Proof) -> Iterator[str]:
    """Return a proof as lines of text."""
    yield f"{'':24}{'ledger':>28}{'state':>28}{'difference':>28}"
    for name in sorted({*proof.ledger, *proof.state}):
        ours, theirs = proof.ledger.get(name, 0), proof.state.get(name, 0)
        if ours or theirs:
            yield f"{name:24}{ours:>28,}{theirs:>28,}{ours - theirs:>28,}"
    expired = proof.expired.get("cost_nano_usd", 0)
    yield (
        f"Of the state, {usd(expired)} USD of {proof.expired.get('spans', 0):,} spans are of groups that expired "
        "there; the ledger still has them by group."
    )
    same = proof.groups - len({group for group, _ in proof.differing})
    yield f"{same:,} of {proof.groups:,} groups are equal in every sum and status."
    for (group, status), sums in sorted(proof.differing.items())[:_MOST_NAMED]:
        numbers = ", ".join(f"{name} {number:+,}" for name, number in sums.items())
        yield f"  {_text(group)}, {status}: ledger minus state: {numbers}"
    if len(proof.differing) > _MOST_NAMED:
        yield f"  and {len(proof.differing) - _MOST_NAMED:,} more"
    yield "Input by partition:"
    for one in proof.inputs:
        yield from one.lines()
    counted, spans = sum(one.counted for one in proof.inputs), proof.state.get("spans", 0)
    if counted < spans:
        yield f"{spans - counted:,} spans of the state are of another topic, which was the input before."
    rejected = ", ".join(f"{number:,} {reason}" for reason, number in sorted(proof.rejected.items()))
    yield f"Rejected, and parts of spans that were left out: {rejected or 'none'}."
    yield from map(incomplete, proof.gaps)
    yield from proof.faults
    yield "The input does NOT add up." if proof.faults else "The input adds up."
    yield "The ledger agrees with the state." if proof.agrees else "The ledger does NOT agree with the state."


def proof_json(proof: Proof) -> dict[str, Any]:
    """Return a proof as a JSON object."""
    return {
        "agrees": proof.agrees,
        "ledger": dict(proof.ledger),
        "state": dict(proof.state),
        "expired": dict(proof.expired),
        "difference": proof.difference,
        "groups": proof.groups,
        "differing": [
            {**group.labels(), "status": status, "difference": dict(sums)}
            for (group, status), sums in sorted(proof.differing.items())
        ],
        "pending_rollups": proof.pending,
        "inputs": [one.as_json() for one in proof.inputs],
        "adds_up": not proof.faults,
        "faults": list(proof.faults),
        "rejected": dict(proof.rejected),
        "gaps": [gap.as_json() for gap in proof.gaps],
    }


def _text(group: Group) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in group.labels().items())
