"""Configuration model: all sections of `tokentrace.yml`, every key with its type, default and description.

The models are strict and frozen; an unknown key is an error. The JSON Schema and `docs/configuration.md` are generated
from them. Every large section has a module of its name in this package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, StrictBool, StrictInt, create_model, field_validator, model_validator

from tokentrace.config.alerts import AlertRule
from tokentrace.config.budgets import BudgetSection
from tokentrace.config.dimensions import DimensionSection, name_problems
from tokentrace.config.document import KeyPath
from tokentrace.config.fields import Bounds, PositiveDuration
from tokentrace.config.health import Health
from tokentrace.config.hints import key_near
from tokentrace.config.http_server import HttpServer
from tokentrace.config.kafka import Kafka, invalid_topic
from tokentrace.config.ledger import Ledger
from tokentrace.config.limits import LimitsSection
from tokentrace.config.otlp import OtlpSection
from tokentrace.config.pricing import Pricing
from tokentrace.config.schemas import SchemaRegistry, Schemas
from tokentrace.config.section import Section, located
from tokentrace.config.worker import WorkerSection
from tokentrace.model.families import FAMILIES_BY_NAME, GROUP_LABELS
from tokentrace.model.measures import DISTRIBUTIONS
from tokentrace.model.reasons import MAX_LABEL_BYTES
from tokentrace.model.snapshot import BASE_LABELS

if TYPE_CHECKING:

    class Buckets(Section):
        """Bucket bounds with one key per measure in `measures.DISTRIBUTIONS`."""
else:
    Buckets = create_model(
        "Buckets",
        __base__=Section,
        __doc__="Upper bounds of the histograms' buckets. Changing them restarts the histogram from zero.",
        **{
            measure.name: (Bounds, Field(measure.bounds, description=f"Bounds of tokentrace_{measure.name}."))
            for measure in DISTRIBUTIONS
        },
    )


#: Labels that families have besides those that can be chosen.
_OWN_LABELS: Final = frozenset({"token_type", "unit", "source", "reason", "le"})


class Metrics(Section):
    """Families, labels and series of the exposition."""

    buckets: Buckets = Buckets()
    """Bucket bounds by histogram."""
    labels: dict[str, tuple[str, ...]] = {}
    """Labels by family, instead of the default ones: any of status, model, provider, caller and the dimensions."""
    max_groups: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    """Most (model, provider, caller) groups with separate series; further groups are added to __overflow__."""
    max_dimension_groups: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 20_000
    """Most groups that differ in a dimension; of further ones, all dimensions are __overflow__."""
    max_series: Annotated[StrictInt, Field(ge=1000)] = 200_000
    """Most series that the groups can come to; a group that would exceed it is added to __overflow__."""
    max_exposition_bytes: Annotated[StrictInt, Field(ge=1_000_000)] = 64_000_000
    """Most bytes of a scrape of the groups, uncompressed, at most a 16th of the memory; the rest is in __overflow__."""
    label_value_length_limit: Annotated[StrictInt, Field(ge=64, le=MAX_LABEL_BYTES)] = 200
    """Longest label value, bytes of UTF-8; a longer one becomes its beginning, `~` and a hash of it."""
    quality_window: PositiveDuration = 300.0
    """Time range of tokentrace_quality_score."""
    zero_first: StrictBool = True
    """Show a new series as 0 for one scrape, so that Prometheus sees its first increment."""
    created: StrictBool = False
    """Give the time at which each series began as a series `_created`, in OpenMetrics, which adds at least a third."""
    expire_after: PositiveDuration | None = None
    """Idle time after which a group's series end, at least 10m; never if unset."""

    @field_validator("expire_after")
    @classmethod
    def _long_enough(cls, value: float | None) -> float | None:
        # Every Prometheus must scrape the last value before the series ends.
        if value is not None and value < 600.0:
            raise ValueError("must be at least 10m")
        return value

    @field_validator("buckets")
    @classmethod
    def _scores_are_shares(cls, value: Buckets) -> Buckets:
        bounds: tuple[float, ...] = value.eval_score  # type: ignore[attr-defined]
        if bounds[-1] > 1:
            raise located((("eval_score",), f"a score is between 0 and 1, and a bound is {bounds[-1]:g}"))
        return value

    @field_validator("labels")
    @classmethod
    def _known_families(cls, value: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        labels: dict[str, tuple[str, ...]] = {}
        problems = []
        for name, chosen in value.items():
            family = name.removeprefix("tokentrace_")
            if family not in FAMILIES_BY_NAME:
                close = key_near(family, FAMILIES_BY_NAME, 0.6)
                names = f'did you mean "{close}"?' if close else f"use one of {', '.join(FAMILIES_BY_NAME)}"
                problems.append(((name,), f"not a family with configurable labels; {names}"))
            elif family in labels:
                problems.append(((name,), f"the labels of {family} are set twice, with and without tokentrace_"))
            elif len(set(chosen)) != len(chosen):
                problems.append(((name,), "contains a label twice"))
            dimensions = [label for label in chosen if label not in GROUP_LABELS]
            labels[family] = (*(label for label in GROUP_LABELS if label in chosen), *dimensions)
        if problems:
            raise located(*problems)
        return labels


class Config(Section):
    """The configuration file, `tokentrace.yml`."""

    kafka: Kafka = Kafka()
    schema_registry: SchemaRegistry = SchemaRegistry()
    schemas: Schemas = Schemas()
    worker: WorkerSection = Field(default_factory=WorkerSection)
    otlp: OtlpSection = OtlpSection()
    limits: LimitsSection = LimitsSection()
    http_server: HttpServer = HttpServer()
    health: Health = Health()
    metrics: Metrics = Metrics()
    dimensions: dict[str, DimensionSection] = {}
    pricing: Pricing = Pricing()
    alerts: tuple[AlertRule, ...] = ()
    budgets: tuple[BudgetSection, ...] = ()
    ledger: Ledger = Ledger()

    @property
    def evaluates(self) -> bool:
        """True if a replica reads the rollups: for alerts or budgets."""
        return bool(self.alerts or self.budgets)

    @property
    def ledger_zones(self) -> list[str]:
        """The time zones whose days the ledger keeps apart."""
        return [*dict.fromkeys((*self.ledger.zones, *(budget.time_zone for budget in self.budgets)))]

    @model_validator(mode="after")
    def _cross_check(self) -> Config:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        kafka = self.kafka
        if kafka.framing == "raw" and self.schemas.raw is None:
            problems.append((("kafka", "framing"), "raw requires schemas.raw, the schema file"))
        if kafka.framing == "glue" and not self.schemas.glue:
            problems.append((("kafka", "framing"), "glue requires schemas.glue, the files of its schema versions"))
        if kafka.framing in ("confluent", "apicurio") and not self.schema_registry.url:
            problems.append(
                (("kafka", "framing"), f"{kafka.framing} requires schema_registry.url, which has the schemas")
            )
        taken = (kafka.state_topic, kafka.ids_topic, kafka.alerts_topic, kafka.budgets_topic, kafka.rollups_topic)
        for key, name in (("topic", kafka.topic), ("dead_letter_topic", kafka.dead_letters)):
            if name in taken:
                problems.append(
                    (("kafka", key), f"{name} is one of tokentrace's own topics, which begin with the group")
                )
        if self.health.max_commit_age and self.health.max_commit_age <= self.worker.commit_interval:
            problems.append((("health", "max_commit_age"), "must be longer than worker.commit_interval"))
        problems += [*name_problems(self.dimensions), *self._label_problems()]
        first: dict[str, KeyPath] = {}
        for path, named in self._evaluated():
            if (other := first.setdefault(named.name, path)) != path:
                problems.append(((*path, "name"), f"{other[0]}[{other[1]}] is named {named.name!r} too"))
        if self.worker.guarantee == "exactly_once":
            # The longest of tokentrace's own topics begins with the group.
            if what := invalid_topic(f"{self.kafka.group_id}.rollups"):
                problems.append((("kafka", "group_id"), f"begins the names of tokentrace's own topics, and {what}"))
        elif self.evaluates or self.ledger.in_worker:
            readers = "alerts require" if self.alerts else "budgets require" if self.budgets else "the ledger requires"
            it = "they read" if self.evaluates else "it reads"
            what = f"{readers} exactly_once, which writes the rollups that {it}"
            problems.append((("worker", "guarantee"), what))
        if problems:
            raise located(*problems)
        return self

    def _evaluated(self) -> Iterator[tuple[KeyPath, AlertRule | BudgetSection]]:
        yield from ((("alerts", index), rule) for index, rule in enumerate(self.alerts))
        yield from ((("budgets", index), budget) for index, budget in enumerate(self.budgets))

    def _label_problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Give the path and the text of the problem of each label that neither every span has nor is a dimension."""
        used: list[tuple[KeyPath, str, Sequence[str]]] = [
            (("metrics", "labels", family), label, GROUP_LABELS)
            for family, labels in self.metrics.labels.items()
            for label in labels
        ]
        for path, chosen in self._evaluated():
            used += [((*path, "group_by", at), label, BASE_LABELS) for at, label in enumerate(chosen.group_by)]
            used += [((*path, "filter", label), label, BASE_LABELS) for label in chosen.filter.dimensions]
        for where, label, base in used:
            if where[0] == "metrics" and label in _OWN_LABELS:
                yield where, f"{label} comes by itself, and is not one of {', '.join(base)}; leave it out"
            elif label not in base and label not in self.dimensions:
                close = difflib.get_close_matches(label, [*base, *self.dimensions], 1)
                hint = f'; did you mean "{close[0]}"?' if close else f"; declare {label} in dimensions, or take it out"
                if label == "status":
                    hint = "; the metrics error_rate, error_count and timeout_rate are of one status"
                yield where, f"{label!r} is neither a dimension nor one of {', '.join(base)}{hint}"
