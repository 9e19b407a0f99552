"""The columnar decoder."""
