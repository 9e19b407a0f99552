"""The engine and the image, built once for all tests of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import unavailable
from tests.image.engine import TAG, Engine
from tests.services import Unavailable


@pytest.fixture(scope="session")
def engine(real_service: None) -> Engine:
    try:
        return Engine()
    except Unavailable as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def base(engine: Engine) -> Iterator[str]:
    """The image, built. Gives its base."""
    try:
        yield engine.build()
    except Unavailable as error:
        unavailable(str(error))
    if "TOKENTRACE_IMAGE" not in os.environ:
        engine.run("rmi", "--force", TAG, check=False)
