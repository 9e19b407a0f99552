"""An alert window must be shorter than the retention of the rollups topic."""

from __future__ import annotations

import pytest

from tokentrace.config import Config
from tokentrace.errors import ConfigError
from tokentrace.runtime.topic_setup import check_windows

DAY_S = 86_400.0


def config(*windows: str) -> Config:
    rule = {"metric": "total_cost", "op": "gt", "threshold": 1.0}
    alerts = [{"name": f"rule-{window}", "window": window, **rule} for window in windows]
    return Config.model_validate({"kafka": {"bootstrap_servers": "x:1", "topic": "spans"}, "alerts": alerts})


@pytest.mark.parametrize("retention_s", [None, 3 * DAY_S])
def test_check_windows_accepts_what_is_retained(retention_s: float | None) -> None:
    check_windows(config("5m", "2d"), retention_s)


def test_check_windows_names_every_rule_that_is_too_long() -> None:
    with pytest.raises(ConfigError) as caught:
        check_windows(config("2d", "5m", "3d"), 2 * DAY_S)
    message = str(caught.value)
    assert "alerts[0].window: 2d is longer than the topic" in message
    assert "alerts[2].window: 3d" in message
    assert "alerts[1]" not in message
