"""Aggregate: spans become sums."""
