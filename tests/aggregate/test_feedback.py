"""Feedback for publishers: what the log says of rejects, repairs and times, and how often."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.harness import NOW_S, Clock, Harness, raw_batch
from tests.spanfactory import message, span
from tokentrace.aggregate.feedback import INTERVAL_S, Feedback
from tokentrace.aggregate.findings import Finding, time_in_words
from tokentrace.model import reasons
from tokentrace.model.advice import ADVICE

NOW_US = int(NOW_S * 1e6)


def found(*values: bytes | None, offset: int = 40) -> dict[str, Finding]:
    """Count the messages. Returns kind -> finding."""
    findings: list[Finding] = []
    rig = Harness(tell=findings.append)
    rig.engine.count(raw_batch(values, partition=3, offset=offset, now_s=NOW_S), rig.delta)
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def at(**times: int) -> bytes:
    return message(span(model="gpt-4o", caller="search", **times))


def test_every_reason_has_an_advice() -> None:
    assert set(ADVICE) >= {*reasons.WHOLE, *reasons.PART}
    assert all(advice.endswith(".") for advice in ADVICE.values())


def test_good_spans_give_no_findings() -> None:
    assert found(*(message(span()) for _ in range(20))) == {}


def test_a_reject_names_its_place_labels_value_and_what_to_change() -> None:
    good, bad = message(span()), message(span(model="gpt-4o", provider="openai", caller="search", prompt_tokens=-1))
    finding = found(good, bad, bad, b"junk", good)["negative_tokens"]
    assert (finding.count, finding.topic, finding.partition, finding.offset) == (2, "spans", 3, 42)
    assert (finding.model, finding.provider, finding.caller) == ("gpt-4o", "openai", "search")
    assert "prompt_tokens=-1" in finding.why
    assert finding.advice == ADVICE["negative_tokens"]


def test_a_message_that_cannot_be_decoded_has_no_labels() -> None:
    finding = found(b"junk")["unknown_framing"]
    assert (finding.rejected, finding.model, finding.caller) == (True, "", "")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"prompt_tokens": 10, "cached_prompt_tokens": 11}, "prompt_excludes_cache"),
        ({"completion_tokens": 1, "reasoning_tokens": 2, "total_tokens": None}, "reasoning_tokens_invalid"),
        ({"attributes": {"eval.score": 7.0}}, "eval_score_invalid"),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 90, "cached_prompt_tokens": None,
          "reasoning_tokens": None}, "estimated"),
    ],
)  # fmt: skip
def test_a_correction_is_a_finding_of_its_span(fields: dict[str, Any], kind: str) -> None:
    base = {"cached_prompt_tokens": None, "reasoning_tokens": None, "caller": "search", "cost_usd": None}
    finding = found(message(span()), message(span(**{**base, **fields})))[kind]
    assert (finding.rejected, finding.count, finding.offset, finding.caller) == (False, 1, 41, "search")


@pytest.mark.parametrize(
    ("divide", "words"),
    [(1000, "in milliseconds it is"), (10**6, "in seconds it is"), (1 / 1000, "in nanoseconds it is")],
)
def test_a_time_in_another_unit_is_named(divide: float, words: str) -> None:
    moment = NOW_US - 3_600_000_000
    value = round(moment / divide)
    finding = found(at(started_at=value, ended_at=value + 5))["clamped"]
    assert (finding.count, finding.model, finding.caller) == (1, "gpt-4o", "search")
    assert finding.why.startswith(f"ended_at is {value + 5}, which is ")
    assert words in finding.why
    assert "timestamp-millis" in finding.advice


def test_a_time_of_no_unit_and_a_missing_time() -> None:
    assert found(at(started_at=0, ended_at=0)) == {}, "who has no time has made no mistake"
    why = found(at(started_at=5, ended_at=NOW_US + 10**12))["clamped"].why
    assert "the message was published at" in why


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, -1, 1])
def test_any_time_has_words(value: int) -> None:
    assert str(value) in time_in_words("ended_at", value, NOW_US)


def test_each_kind_is_logged_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    feedback = Feedback(clock)
    rig = Harness(tell=feedback.add)
    caplog.set_level(logging.INFO, "tokentrace.aggregate.feedback")

    def lines_after(seconds: float, *values: bytes | None) -> list[str]:
        clock.now_s += seconds
        rig.engine.count(raw_batch(values, now_s=NOW_S), rig.delta)
        caplog.clear()
        feedback.report()
        return [record.getMessage() for record in caplog.records]

    (line,) = lines_after(0, b"junk", b"junk")
    assert line.startswith("Rejected 2 messages (unknown_framing), such as spans/0@1: ")
    assert line.endswith(ADVICE["unknown_framing"])
    assert lines_after(1, b"junk") == []
    (line,) = lines_after(1, b"", b"junk")
    assert line.startswith("Rejected 1 message (empty)"), "another kind does not wait"
    assert lines_after(INTERVAL_S - 3) == []
    (line,) = lines_after(1)
    assert line.startswith("Rejected 2 messages (unknown_framing)"), "what was found meanwhile is counted"
    assert lines_after(2 * INTERVAL_S) == []
    (line,) = lines_after(0, None)
    assert caplog.records[0].levelname == "INFO"
