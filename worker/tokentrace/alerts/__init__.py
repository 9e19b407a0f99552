"""Alerts: rules over the whole fleet, in event time, that fire once.

Every commit of every replica writes its increments by event minute to the rollups topic. That topic has one partition,
so one replica at a time reads all of it: the evaluator. The alerts are a function of that topic's content alone:

rollup -> windows -> rules -> evaluation -> store (with the position, in one transaction) -> delivery
"""

from __future__ import annotations
