"""Very many values of a dimension under a limit: bounded memory, and every sum equal to the recount."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from tests.aggregate.many_users import LIMIT, MODELS, batches
from tests.spanfactory import ROOT, span

_SAMPLE = re.compile(r"tokentrace_(cost|tokens)_total\{(.*)\} (\S+)")


@pytest.mark.parametrize("users", [30_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_users_beyond_the_limit_cost_no_memory_and_no_sum_is_lost(tmp_path: Path, users: int) -> None:
    scrape = tmp_path / "scrape"
    command = [sys.executable, "-m", "tests.aggregate.many_users", str(users), str(scrape)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    print(run.stdout)
    found = json.loads(run.stdout)
    assert found["peak_mb"] < 500
    assert found["use"][:2] == [LIMIT, LIMIT]
    wanted, beyond = recount(users)
    assert found["use"][2] == beyond
    assert shown(scrape.read_text()) == wanted


def recount(users: int) -> tuple[Counter[tuple[str, ...]], int]:
    """Return (sums of the two families by their labels, spans beyond the limit), by users in the order they come."""
    sums: Counter[tuple[str, ...]] = Counter()
    names: set[str] = set()
    beyond = 0
    # What the process counts before it measures: their cost is left to the price table, and not compared.
    for _ in MODELS:
        sums["tokens", "", "prompt"] += span()["prompt_tokens"]
        sums["tokens", "", "completion"] += span()["completion_tokens"]
    for records in batches(users):
        for record in records:
            user = record["attributes"]["user"]
            if len(names) < LIMIT:
                names.add(user)
            if user not in names:
                user, beyond = "__overflow__", beyond + 1
            sums["cost", record["model"], user] += round(record["cost_usd"] * 1e6) * 1000
            sums["tokens", user, "prompt"] += record["prompt_tokens"]
            sums["tokens", user, "completion"] += record["completion_tokens"]
    return +sums, beyond


def shown(text: str) -> Counter[tuple[str, ...]]:
    """Return the sums of the two families in a scrape: cost in nano-dollars."""
    sums: Counter[tuple[str, ...]] = Counter()
    for family, labels, value in _SAMPLE.findall(text):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if family == "tokens":
            sums[family, pairs["user"], pairs["token_type"]] += int(value)
        elif pairs["user"]:
            sums[family, pairs["model"], pairs["user"]] += int(Decimal(value) * 10**9)
    return +sums
