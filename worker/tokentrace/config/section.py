"""Base of the configuration's models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

NonEmpty = Annotated[str, Field(min_length=1)]


def problems_at(problems: Mapping[tuple[str | int, ...], str]) -> ValidationError:
    """Return the error to raise for problems of keys further inside, by the path to each."""
    details = [
        InitErrorDetails(type=PydanticCustomError("value_error", "{text}", {"text": text}), loc=path, input=None)
        for path, text in problems.items()
    ]
    error: Any = ValidationError.from_exception_data("problems", details)
    assert isinstance(error, ValidationError)
    return error


class Section(BaseModel):
    """Base of all sections: strict, frozen, with attribute docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
