"""Import rules: packages are layers, lower never imports higher, and each library has its home.

docs/architecture.md draws the same layers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.services import ROOT

PACKAGE: Final = ROOT / "worker" / "tokentrace"

#: From the bottom up. A package imports itself and what is below it, never its neighbours; those of the first two
#: layers may see each other's neighbours only downwards too.
LAYERS: Final = (
    {"errors", "__init__"},
    {"model"},
    {"kafka", "config", "pricing", "decode"},
    {"aggregate", "publisher"},
    {"state"},
    {"budgets"},
    {"commit", "alerts"},
    {"ledger"},
    {"exposition"},
    {"runtime"},
    {"tools"},
    {"cli"},
    {"__main__"},
)
RANK: Final = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

#: The package's own module shows what applications import, from wherever it is.
FACE: Final = "__init__.py"

#: Library -> the only places that import it.
HOMES: Final = {
    "confluent_kafka": ("kafka/", "decode/schemas/"),
    "litellm": ("publisher/litellm_callback.py",),
    "openai": (),
    "anthropic": (),
    "opentelemetry": ("publisher/otel.py",),
    "starlette": ("exposition/http/",),
    "uvicorn": ("exposition/http/",),
    "prometheus_client": ("exposition/", "model/worker_stats.py", "tools/top.py"),
    "pydantic": ("config/",),
    "click": ("cli/",),
    "sqlalchemy": ("ledger/",),
    "alembic": ("ledger/",),
    "pyarrow": ("ledger/",),
    "rich": (
        "cli/",
        "tools/top_view.py",
        "tools/state_table.py",
        "tools/repriced_table.py",
        "tools/budget_table.py",
    ),
}


def imported(source: str, package: str) -> Iterator[str]:
    """Modules that a source file of `package` (dotted) imports, relative ones resolved, lazy ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from tokentrace import cli` names a package, `from tokentrace.cli import main` is in one.
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "tokentrace" else [module]


def violations(path: str, source: str) -> Iterator[str]:
    """Yield the imports of a file (path below the package) that break the rules."""
    parts = Path(path).with_suffix("").parts
    room = parts[0]
    for module in imported(source, ".".join(("tokentrace", *parts[:-1]))):
        names = module.split(".")
        if names[0] == "tokentrace" and len(names) > 1 and names[1] in RANK:
            other = names[1]
            if RANK[other] > RANK[room] and path != FACE:
                yield f"{path} imports {module}: upward"
            elif other != room and RANK[other] == RANK[room]:
                yield f"{path} imports {module}: sideways"
        homes = HOMES.get(names[0])
        if homes is not None and not path.startswith(homes):
            yield f"{path} imports {names[0]}, whose home is {' and '.join(homes)}"


def files() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def test_every_package_has_a_layer() -> None:
    rooms = {Path(path).with_suffix("").parts[0] for path in files()}
    assert rooms == set(RANK)


def test_imports_go_downward() -> None:
    assert [found for path in files() for found in violations(path, (PACKAGE / path).read_text())] == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("model/spans.py", "from tokentrace.state.ledger import Ledger", "upward"),
        ("model/spans.py", "def f():\n    from ..state import ledger", "upward"),
        ("commit/__init__.py", "from tokentrace.alerts.rules import Rule", "sideways"),
        ("state/ledger.py", "from confluent_kafka import Producer", "home"),
        ("cli/top.py", "import pydantic", "home"),
        ("runtime/worker.py", "from tokentrace import cli", "upward"),
    ],
)
def test_an_import_that_is_turned_round_is_found(path: str, source: str, found: str) -> None:
    assert [found in violation for violation in violations(path, source)] == [True]
