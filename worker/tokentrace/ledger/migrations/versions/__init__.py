"""Revisions, each of which leaves the tables as one release has them."""
