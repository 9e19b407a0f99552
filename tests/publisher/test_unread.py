"""Counts that nothing reads: found in JSON and in objects, counted once a call, and none in what providers document."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tests.publisher.answers import ANSWERS, Answer
from tests.services.provider import CHAT_USAGE, MESSAGES_USAGE, RESPONSES_USAGE
from tokentrace import Publisher
from tokentrace.publisher.publisher import MAX_UNREAD
from tokentrace.publisher.unread import unread_counts
from tokentrace.publisher.usage import KNOWN_COUNTS, find_usage


def unread(usage: Any) -> list[str]:
    return unread_counts(usage, KNOWN_COUNTS)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_every_count_of_documented_answers_is_read(answer: Answer) -> None:
    usage, fields = find_usage(answer.json, answer.provider)
    assert fields
    assert unread(usage) == []


@pytest.mark.parametrize("usage", [CHAT_USAGE, RESPONSES_USAGE, MESSAGES_USAGE])
def test_new_counts_are_found_at_each_level_and_zero_is_nothing(usage: dict[str, Any]) -> None:
    assert unread(usage) == []
    assert unread({**usage, "tool_calls": 3, "free": 0, "note": "x", "flag": True, "list": [1]}) == ["tool_calls"]
    assert unread({**usage, "more_details": {"a": {"b": 2}, "c": 1.5}}) == ["more_details.a.b", "more_details.c"]


def test_objects_of_sdks_show_their_attributes_and_what_their_classes_do_not_know() -> None:
    details = SimpleNamespace(cached_tokens=1, thought_tokens=4)
    usage = SimpleNamespace(prompt_tokens=5, prompt_tokens_details=details, __pydantic_extra__={"video_tokens": 2})
    assert sorted(unread(usage)) == ["prompt_tokens_details.thought_tokens", "video_tokens"]
    assert unread(object()) == []


def test_the_openai_package_keeps_counts_that_it_does_not_know() -> None:
    types = pytest.importorskip("openai.types")
    usage = types.CompletionUsage.model_validate({**CHAT_USAGE, "tool_calls": 3})
    assert unread(usage) == ["tool_calls"]


def test_unread_counts_are_in_the_stats_once_a_call_and_in_the_log(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        with publisher.call("m") as call:
            for _ in range(5):
                call.part({"usage": {**CHAT_USAGE, "tool_calls": 3}})
    with publisher.call("m") as call:
        call.usage({"usage": CHAT_USAGE})
    assert publisher.stats.unread == {"tool_calls": 3}
    lines = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert lines == ["Usage has counts that are not read, and are in no span: tool_calls."]


def test_the_number_of_names_is_bounded(publisher: Publisher) -> None:
    for number in range(MAX_UNREAD + 50):
        publisher.note_unread([f"count_{number}"])
    assert len(publisher.stats.unread) == MAX_UNREAD
    publisher.after_fork()
    assert publisher.stats.unread == {}
