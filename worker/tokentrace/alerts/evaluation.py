"""Evaluation: which rules fire and which resolve as event time advances.

An instance of a rule (one for each value of its `group_by`) fires when its condition becomes true, and not again while
it stays true. It resolves when the condition becomes false; the next firing is at least the cool-down later. Rules are
evaluated at ends of minutes, so the same rollups give the same transitions however they are batched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tokentrace.alerts.rules import OPERATORS, SPANS, Floats, Rule, Selection
from tokentrace.alerts.windows import SUMS, Windows
from tokentrace.model.arrays import Ints
from tokentrace.model.digests import digest
from tokentrace.model.globs import pattern
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import BASE_LABELS, Group

Labels = tuple[str, ...]
MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True)
class AlertTransition:
    """An instance of a rule fired or resolved.

    labels: values of the rule's `group_by`. at_s: end of the last minute of the window, Unix time. value: the metric,
    NaN if it no longer has a value. spans: those in the window that match the rule's filter.
    """

    status: Literal["firing", "resolved"]
    rule: Rule
    labels: Labels
    at_s: int
    value: float
    spans: int

    def id(self, group_id: str) -> str:
        """Return the same id for the same event in every process and every evaluation."""
        return digest([group_id, self.rule.rule_id, self.labels, self.at_s, self.status], 32)


@dataclass(slots=True)
class AlertInstance:
    """The state of an instance that fires or cools down. fired_at_s: its last firing, Unix time."""

    firing: bool
    fired_at_s: int


@dataclass(slots=True)
class RuleState:
    """The state of a rule.

    firings: since the rule exists. fired_at_s: its last firing, 0 before the first. value: the metric of the instance
    that is closest to the threshold or furthest beyond it, None without spans. evaluated_at_s: 0 before the first
    evaluation. Times are Unix times. instances: those that fire or cool down.
    """

    firings: int = 0
    fired_at_s: int = 0
    value: float | None = None
    evaluated_at_s: int = 0
    instances: dict[Labels, AlertInstance] = field(default_factory=dict)

    @property
    def firing(self) -> int:
        """Number of instances that are firing."""
        return sum(instance.firing for instance in self.instances.values())


class _Names:
    """Numbers for groups, and for the values of each label that rules use, in order of first use."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.groups: list[Group] = []
        self.values: list[list[str]] = [[] for _ in labels]
        self.codes: list[list[int]] = [[] for _ in labels]
        self._numbers: dict[Group, int] = {}
        self._value_numbers: list[dict[str, int]] = [{} for _ in labels]

    def value(self, group: int, label: int) -> str:
        return self.values[label][self.codes[label][group]]

    def number(self, group: Group) -> int:
        found = self._numbers.get(group)
        if found is None:
            found = self._numbers[group] = len(self.groups)
            self.groups.append(group)
            for label, name in enumerate(self.labels):
                value = group.label(name)
                numbers = self._value_numbers[label]
                if value not in numbers:
                    numbers[value] = len(numbers)
                    self.values[label].append(value)
                self.codes[label].append(numbers[value])
        return found


class _Selected:
    """The instance of each group under one selection; grows with the groups."""

    def __init__(self, selection: Selection, names: _Names) -> None:
        self._names = names
        filters = selection.filter().items()
        self._globs = [(names.labels.index(label), glob) for label, glob in filters if glob != "*"]
        self._matches: dict[int, list[bool]] = {label: [] for label, _ in self._globs}
        self._by = [names.labels.index(name) for name in selection.group_by]
        self._numbers: dict[Labels, int] = {}
        self._applied = 0
        self._chosen: list[int] = []
        self._instances: list[int] = []
        self._order: Ints = np.zeros(0, np.int64)
        self._starts: Ints = np.zeros(0, np.int64)
        self.labels: list[Labels] = []
        if not self._by:
            self._number(())

    def _number(self, labels: Labels) -> int:
        found = self._numbers.setdefault(labels, len(self.labels))
        if found == len(self.labels):
            self.labels.append(labels)
        return found

    def refresh(self) -> None:
        """Add the groups that are new."""
        names = self._names
        if self._applied == len(names.groups):
            return
        for label, glob in self._globs:
            match, matches = pattern(glob).fullmatch, self._matches[label]
            matches += [match(value.lower()) is not None for value in names.values[label][len(matches) :]]
        new = range(self._applied, len(names.groups))
        for label, _ in self._globs:
            codes, matches = names.codes[label], self._matches[label]
            new = [group for group in new if matches[codes[group]]]  # type: ignore[assignment]
        self._chosen += new
        self._instances += (
            [self._number(tuple(names.value(group, label) for label in self._by)) for group in new]
            if self._by
            else [0] * len(new)
        )
        self._applied = len(names.groups)
        instances = np.array(self._instances, np.int64)
        order = np.argsort(instances, kind="stable")
        self._order = np.array(self._chosen, np.int64)[order]
        # Every instance has a group, so none of the slices between these is empty.
        self._starts = np.flatnonzero(np.diff(instances[order], prepend=-1))

    def sums(self, sums: Ints) -> Ints:
        """Sum groups by instance. sums: int64[groups, c] -> int64[instances, c]."""
        if not len(self._order):
            return np.zeros((len(self.labels), sums.shape[1]), np.int64)
        if len(self.labels) == 1:
            whole = sums if len(self._order) == len(sums) else sums[self._order]
            return np.asarray(whole.sum(axis=0, keepdims=True), np.int64)
        return np.asarray(np.add.reduceat(sums[self._order], self._starts, axis=0), np.int64)

    def find(self, labels: Labels) -> int | None:
        """Return the number of an instance, None while none of its groups is known."""
        return self._numbers.get(labels)


class Evaluation:
    """Evaluates rules over their windows. Time comes with `advance`: there is no clock, and no Kafka."""

    def __init__(self, layout: Layout, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.states: dict[str, RuleState] = {rule.name: RuleState() for rule in rules}
        self.windows = Windows(layout, rules)
        self._layout = layout
        used = {label for rule in rules for label in (*rule.selection.filter(), *rule.selection.group_by)}
        self._names = _Names([*BASE_LABELS, *sorted(used.difference(BASE_LABELS))])
        self._selected = {rule.selection: _Selected(rule.selection, self._names) for rule in rules}

    # -- input -----------------------------------------------------------------------------------------------

    @property
    def groups(self) -> Sequence[Group]:
        """The groups by number."""
        return self._names.groups

    def number(self, group: Group) -> int:
        """Return the number by which `add` identifies a group."""
        return self._names.number(group)

    def add(self, minutes: Ints, groups: Ints, statuses: Ints, values: Ints) -> int:
        """Add increments of distinct (minute, group, status), and return how many of their spans are late.

        minutes, groups, statuses: int64[r]. values: int64[r, windows.columns.needed].
        """
        if not len(minutes) or not self.rules:
            return 0
        late = 0
        key = minutes * 4 + statuses
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order])) + 1
        for rows in np.split(order, bounds):
            first = rows[0]
            late += self.windows.add(int(minutes[first]), groups[rows], int(statuses[first]), values[rows])
        return late

    # -- output ----------------------------------------------------------------------------------------------

    def advance(self, minute: int) -> list[AlertTransition]:
        """Advance event time minute by minute to the end of `minute`, and evaluate the rules that are due."""
        if self.windows.now is None:
            first = self.windows.first_minute
            self.windows.begin(minute if first is None else min(first - 1, minute))
        events = []
        while self.windows.now is not None and self.windows.now < minute:
            now = self.windows.advance() + 1
            events += self.evaluate(rule for rule in self.rules if now % rule.interval == 0)
        return events

    def evaluate(self, rules: Iterable[Rule]) -> list[AlertTransition]:
        """Evaluate these rules over the windows as they are. Event time must have begun."""
        now = self.windows.now
        assert now is not None
        at_s = (now + 1) * MINUTE_S
        sums: dict[tuple[Selection, int, str], Ints] = {}
        events: list[AlertTransition] = []
        for rule in rules:
            state = self.states[rule.name]
            if self._is_idle(rule, state):
                continue
            selected = self._selected[rule.selection]
            selected.refresh()
            basic, block = (
                self._sums(sums, rule, selected, name) if name else np.zeros((0, 0), np.int64)
                for name in (SUMS, rule.measure.block)
            )
            values, made_from = rule.values(basic, block, self._layout)
            state.evaluated_at_s = at_s
            state.value = _closest_to_threshold(values, made_from, rule.op)
            with np.errstate(invalid="ignore"):
                breached = OPERATORS[rule.op](values, rule.threshold) & (made_from >= rule.min_spans)
            if rule.selection.group_by:
                # An instance exists while its window has spans: the names that could occur are not known.
                breached &= basic[:, SPANS] > 0
            events += self._transition_instances(rule, state, selected, breached, values, basic[:, SPANS], at_s)
        return events

    def _is_idle(self, rule: Rule, state: RuleState) -> bool:
        """Return True if nothing in its window has changed since its last evaluation, so its result cannot change."""
        changed = self.windows.changed.get(rule.window)
        if not state.evaluated_at_s or changed is None:
            return False
        cooling = any(not instance.firing for instance in state.instances.values())
        return (changed + 1) * MINUTE_S < state.evaluated_at_s and not cooling

    def _sums(self, known: dict[tuple[Selection, int, str], Ints], rule: Rule, selected: _Selected, block: str) -> Ints:
        """Return the rule's sums by instance; rules with the same selection and window share them."""
        key = (rule.selection, rule.window, block)
        if key not in known:
            known[key] = selected.sums(self.windows.sums(rule.window, block, len(self._names.groups)))
        return known[key]

    def _transition_instances(
        self,
        rule: Rule,
        state: RuleState,
        selected: _Selected,
        breached: NDArray[np.bool_],
        values: Floats,
        spans: Ints,
        at_s: int,
    ) -> list[AlertTransition]:
        """Fire and resolve instances of a rule. breached, values, spans: one element an instance."""
        events = []
        beyond = {selected.labels[index]: index for index in np.flatnonzero(breached).tolist()}
        for labels, instance in list(state.instances.items()):
            if instance.firing and labels not in beyond:
                instance.firing = False
                index = selected.find(labels)
                value, count = (float(values[index]), int(spans[index])) if index is not None else (float("nan"), 0)
                events.append(AlertTransition("resolved", rule, labels, at_s, value, count))
            if not instance.firing and at_s - instance.fired_at_s >= rule.cooldown_s:
                del state.instances[labels]
        for labels, index in sorted(beyond.items()):
            # Otherwise it fires already, or cools down.
            if labels not in state.instances:
                state.instances[labels] = AlertInstance(True, at_s)
                state.firings += 1
                state.fired_at_s = at_s
                events.append(AlertTransition("firing", rule, labels, at_s, float(values[index]), int(spans[index])))
        return events


def _closest_to_threshold(values: Floats, made_from: Ints, op: str) -> float | None:
    """Return the value that is closest to the threshold or furthest beyond it; None if there is no value."""
    known = values[(made_from > 0) & ~np.isnan(values)]
    if not len(known):
        return None
    return float(known.max() if op in ("gt", "gte") else known.min())
