"""Inquiries: what does not answer holds nothing up, is said, and is asked again; old answers are not shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.services.workers import wait_for
from tokentrace.errors import TokentraceError
from tokentrace.exposition.ui.inquiry import SHARE, Inquiry, ThreadInquiry


class Oracle:
    """Answers with a number, once it may. asked: how many times."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        asked = self.asked
        assert self.may.wait(5.0)
        return asked


def inquiry(ask: Callable[[], Any]) -> ThreadInquiry:
    return ThreadInquiry("The oracle", ask, interval_s=30.0, rest=5)


def test_the_question_holds_nobody_up_and_is_asked_once() -> None:
    oracle = Oracle()
    asked = inquiry(oracle)
    now_s = time.monotonic()
    for _ in range(3):
        asked.refresh(now_s)
    assert asked.shown() == {"answer": None, "problem": ""}
    oracle.may.set()
    assert wait_for(lambda: asked.shown()["answer"] == 1, 5.0)
    asked.refresh(now_s + 29.0)
    assert oracle.asked == 1
    asked.refresh(now_s + 40.0)
    assert wait_for(lambda: asked.shown()["answer"] == 2, 5.0)


def test_an_answer_that_is_late_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentrace.exposition.ui.inquiry.LATE_S", 0.0)
    oracle = Oracle()
    asked = inquiry(oracle)
    asked.refresh(time.monotonic())
    assert asked.shown()["problem"] == "The oracle has not answered for more than 0 s."
    oracle.may.set()
    assert wait_for(lambda: asked.shown() == {"answer": 1, "problem": ""}, 5.0)


def test_an_answer_on_its_way_is_forgotten_too() -> None:
    oracle = Oracle()
    asked = inquiry(oracle)
    asked.refresh(time.monotonic())
    asked.forget()
    oracle.may.set()

    def answered() -> bool:
        asked.refresh(time.monotonic())
        return asked.shown()["answer"] is not None

    assert wait_for(answered, 5.0)
    assert asked.shown()["answer"] == 2


def test_a_failure_is_a_sentence_and_the_last_answer_stays() -> None:
    answers = iter([1])

    def ask() -> int:
        for answer in answers:
            return answer
        raise TokentraceError("It does not answer.")

    found = Inquiry(ask, 0.0)
    found.refresh(time.monotonic())
    found.refresh(time.monotonic() + 60.0)
    assert found.shown() == {"answer": 1, "problem": "It does not answer."}


def test_an_answer_that_takes_a_core_rests_long() -> None:
    def ask() -> None:
        end_s = time.thread_time() + 0.02
        while time.thread_time() < end_s:
            pass

    found = Inquiry(ask, 0.0, rest=0)
    now_s = time.monotonic()
    found.refresh(now_s)
    assert found.due_s >= now_s + 0.02 / SHARE
