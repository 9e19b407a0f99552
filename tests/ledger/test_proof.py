"""The proof finds agreement and every difference, while workers go on committing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.harness import LAYOUT
from tests.ledger.helpers import HOUR_US, RollupTopic, follower, recount, sqlite_url
from tests.spanfactory import NOW_US, span
from tokentrace.ledger.database import Database
from tokentrace.ledger.proof import Proof, ledger_sums, prove
from tokentrace.ledger.words import proof_json, proof_lines
from tokentrace.model.snapshot import EXPIRED, Gap, Group, PartitionAudit
from tokentrace.state.inputs import Input
from tokentrace.state.replica_totals import ReplicaTotals

SPANS = [span(model=model, caller=caller) for model in ("gpt-4o", "gpt-4o-mini") for caller in ("a", "b", "b")]


def replica(name: str, spans: list[dict[str, Any]], at_us: int) -> ReplicaTotals:
    """The totals of a replica, recounted from its spans."""
    sums: dict[tuple[Group, str], Counter[str]] = {}
    for (_, model, provider, caller, status), row in recount(spans).items():
        sums.setdefault((Group(model, provider, caller), status), Counter()).update(row)
    return ReplicaTotals(name, at_us / 1e6, {("spans", 0): len(spans) + 3}, sums)


def proof_of(topic: RollupTopic, folder: Path, *replicas: ReplicaTotals) -> Proof:
    database = Database(sqlite_url(folder))
    return prove(database, topic, LAYOUT, replicas, ledger_sums(database))


def test_a_ledger_with_all_commits_agrees(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit(SPANS[:4], NOW_US)
    topic.commit(SPANS[4:], NOW_US + HOUR_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    totals = replace(
        replica("r", SPANS, NOW_US + HOUR_US),
        audits={0: PartitionAudit(8, 6, 2)},
        rejected={"model_missing": 2},
        gaps={("skipped", 0): Gap(1, 0.0)},
        inputs={0: Input(rejects={"model_missing": 2})},
    )
    proof = proof_of(topic, tmp_path, totals)
    assert proof.holds
    assert proof.agrees
    assert not proof.differing
    assert proof.groups == 4
    lines = list(proof_lines(proof))
    assert "     8 spans = 6 counted + 0 duplicates + 0 ignored + 2 rejected (2 model_missing)" in lines
    assert "Rejected, and parts of spans that were left out: 2 model_missing." in lines
    assert lines[-2:] == ["The input adds up.", "The ledger agrees with the state."]
    assert proof_json(proof)["agrees"] is True
    assert proof_json(proof)["adds_up"] is True


def test_an_input_that_does_not_add_up_is_a_proof_that_fails(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit(SPANS, NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    totals = replace(replica("r", SPANS, NOW_US), audits={0: PartitionAudit(7, 6, 1)}, rejected={"model_missing": 1})
    proof = proof_of(topic, tmp_path, totals)
    assert proof.agrees
    assert not proof.holds
    assert list(proof_lines(proof))[-2] == "The input does NOT add up."
    assert proof_json(proof)["faults"] == proof.faults != []


def test_commits_behind_the_ledger_and_behind_the_state_are_told_apart(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit(SPANS[:2], NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    topic.commit(SPANS[2:4], NOW_US + HOUR_US)
    state = replica("r", SPANS[:4], NOW_US + HOUR_US)
    # Committed after the state was read.
    topic.commit(SPANS[4:], NOW_US + 2 * HOUR_US)
    proof = proof_of(topic, tmp_path, state)
    assert proof.agrees
    assert proof.pending == 1


def test_a_span_too_many_or_too_few_is_found(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit(SPANS, NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    for spans in (SPANS[1:], [*SPANS, SPANS[0]]):
        proof = proof_of(topic, tmp_path, replica("r", spans, NOW_US))
        assert not proof.agrees
        assert abs(proof.difference["spans"]) == 1
        assert list(proof.differing) == [(Group("gpt-4o", "openai", "a"), "ok")]
        assert list(proof_lines(proof))[-1] == "The ledger does NOT agree with the state."


def test_amounts_of_one_group_in_another_are_found(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit(SPANS, NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    proof = proof_of(topic, tmp_path, replica("r", [{**SPANS[0], "caller": "b"}, *SPANS[1:]], NOW_US))
    assert not proof.difference
    assert not proof.agrees


def test_expired_groups_are_in_the_sum(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit(SPANS, NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    totals = replica("r", SPANS, NOW_US)
    sums = dict(totals.sums)
    sums[Group("gpt-4o", "openai", EXPIRED), "ok"] = sums.pop((Group("gpt-4o", "openai", "a"), "ok"))
    proof = proof_of(topic, tmp_path, replace(totals, sums=sums))
    assert proof.agrees
    assert proof.expired["spans"] == 1
    assert len(proof.differing) == 2
