"""Alert windows and the retention of the rollups topic agree, at the first start and at every later one."""

from __future__ import annotations

import pytest

from tokentrace.config import Config
from tokentrace.errors import ConfigError
from tokentrace.runtime.topic_setup import check_windows, rollups_retention_s

DAY_S = 86_400.0


def config(*windows: str) -> Config:
    rule = {"metric": "total_cost", "op": "gt", "threshold": 1.0}
    alerts = [{"name": f"rule-{window}", "window": window, **rule} for window in windows]
    return Config.model_validate({"kafka": {"bootstrap_servers": "x:1", "topic": "spans"}, "alerts": alerts})


@pytest.mark.parametrize(
    ("windows", "retention_s"),
    [((), 7 * DAY_S), (("5m", "6d"), 7 * DAY_S), (("6d", "7d", "5m"), 8 * DAY_S), (("366d",), 367 * DAY_S)],
)
def test_a_created_rollups_topic_retains_every_window_of_the_configuration(
    windows: tuple[str, ...], retention_s: float
) -> None:
    some = config(*windows)
    assert rollups_retention_s(some) == retention_s
    check_windows(some, retention_s)


@pytest.mark.parametrize("retention_s", [None, 3 * DAY_S, 2 * DAY_S + 120.0])
def test_check_windows_accepts_what_is_retained(retention_s: float | None) -> None:
    check_windows(config("5m", "2d"), retention_s)


@pytest.mark.parametrize("retention_s", [2 * DAY_S + 119.0, 2 * DAY_S, 3600.0])
def test_check_windows_rejects_what_an_evaluator_could_not_read_again(retention_s: float) -> None:
    with pytest.raises(ConfigError, match=r"alerts\[1\].window: 2d and a margin of 2m exceed the"):
        check_windows(config("5m", "2d"), retention_s)


def test_check_windows_names_every_rule_that_is_too_long_and_the_command() -> None:
    with pytest.raises(ConfigError) as caught:
        check_windows(config("7d", "5m", "8d"), 7 * DAY_S)
    message = str(caught.value)
    assert (
        "alerts[0].window: 7d and a margin of 2m exceed the retention of topic 'tokentrace.rollups' (7d); shorten the "
        "window, or run: kafka-configs.sh --alter --entity-type topics --entity-name tokentrace.rollups --add-config "
        "retention.ms=777600000"
    ) in message
    assert "alerts[2].window: 8d" in message
    assert "alerts[1]" not in message
