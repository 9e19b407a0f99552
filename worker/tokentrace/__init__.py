"""tokentrace: what language-model traffic costs, how slow it is and how good, exactly and in real time."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokentrace.publisher import Call, Publisher

try:
    __version__ = version("tokentrace")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+source"

__all__ = ["Call", "Publisher", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the publisher when it is used: a worker does without it, and it takes Kafka's client to import."""
    if name in ("Call", "Publisher"):
        return getattr(import_module("tokentrace.publisher"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
