"""The columnar walker: the spans of all messages of a batch at once, level by level, with NumPy."""
