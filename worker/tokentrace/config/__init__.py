"""Configuration: reads and validates `tokentrace.yml`, and reports every problem in one line with its location."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokentrace.config.kafka import Kafka
from tokentrace.config.models import Config
from tokentrace.config.reading import read_config
from tokentrace.errors import ConfigError

__all__ = ["Config", "Kafka", "load_config"]


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Load a configuration file. Relative paths in it are relative to the file.

    Raises ConfigError with every problem: `path.to.key: what is wrong (line N)`.
    """
    reading = read_config(path, environment)
    if reading.problems:
        raise ConfigError([problem.text(path) for problem in reading.problems], str(path))
    return reading.config
