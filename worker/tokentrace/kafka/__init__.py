"""Kafka: the only package that imports confluent_kafka, but for the schema registry's client.

`clients` makes every client; `errors` says what an error means. Reading: `source` is a member of the workers' group,
with `membership`, `offsets` and `batch`; `reader` reads a topic whole. Writing: `transaction` commits records and
offsets atomically, `producer` delivers records outside transactions. `topics` creates and checks tokentrace's topics,
`group_offsets` reads and changes what a group has committed.
"""
