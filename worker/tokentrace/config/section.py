"""Base of the configuration's models, and the error by which a validator names the key that is wrong."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

NonEmpty = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: strict and frozen.

    The docstring under a key is its description, for `config.docs` alone: reading the source of every section takes
    a fifth of the time in which this package is imported.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def located(*problems: tuple[tuple[str | int, ...], str]) -> ValidationError:
    """Return the error of a validator that found these problems: (keys below the validated value, what is wrong)."""
    details: list[InitErrorDetails] = []
    for keys, what in problems:
        context: dict[str, Any] = {"what": what}
        details.append({"type": PydanticCustomError("problem", "{what}", context), "loc": keys, "input": None})
    return ValidationError.from_exception_data("section", details)
