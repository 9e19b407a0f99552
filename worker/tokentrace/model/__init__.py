"""The vocabulary: types and tables, no I/O."""
