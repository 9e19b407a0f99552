"""Tools: what is not the worker."""
