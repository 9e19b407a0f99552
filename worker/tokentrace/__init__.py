"""tokentrace: what language-model traffic costs, how slow it is and how good, exactly and in real time."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tokentrace")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+source"

__all__ = ["__version__"]
