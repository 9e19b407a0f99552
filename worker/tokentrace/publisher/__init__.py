"""Publishing: the side of an application, whose calls of models become spans in Kafka.

`publisher` is its face, `call` one call while it runs, `usage` reads what providers report, by `ways`.
`clients` wraps those of OpenAI and Anthropic; `litellm_callback` and `otel` publish what those libraries report.
`process` flushes at the end of the process and begins again after a fork. Neither NumPy nor pydantic is imported.
"""

from tokentrace.publisher.call import Call
from tokentrace.publisher.publisher import Publisher, Stats

__all__ = ["Call", "Publisher", "Stats"]
