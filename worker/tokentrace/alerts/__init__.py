"""Alerts: rules over the whole fleet, in event time, that fire once.

Every commit of every replica leaves its increments by event minute in the rollups topic. That topic has one partition,
so one replica at a time reads all of it: the evaluator. What fires is a function of the topic's content alone:

rollup -> windows -> rules -> evaluation -> store (with the position, in one transaction) -> delivery
"""

from __future__ import annotations
