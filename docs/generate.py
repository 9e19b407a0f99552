"""Write the parts of the documentation that come from the code. `make docs` runs it; a test looks for drift."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from tokentrace.config.docs import json_schema, markdown_table
from tokentrace.exposition.docs import (
    alert_families,
    budget_families,
    ledger_families,
    reject_reasons,
    span_families,
    worker_families,
)
from tokentrace.model import conventions
from tokentrace.model.bundled_schemas import bundled_schema, single_object_header
from tokentrace.model.measures import record_fields

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
#: Schemas of durable records that hold `Counts`.
COUNTS_SCHEMAS = ("state-cell", "state-cell-wide", "rollup", "rollup-dimensions")
OPERATOR_RULES = ROOT / "deploy" / "kubernetes" / "components" / "prometheus-rule" / "prometheusrule.yaml"
#: A chart reads no file outside of its folder.
CHART_RULES = ROOT / "deploy" / "helm" / "tokentrace" / "files" / "rules.yml"


def _sizing() -> str:
    """The table of docs/sizing.py, which is a script of its own."""
    spec = importlib.util.spec_from_file_location("sizing", ROOT / "docs" / "sizing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sizing"] = module
    spec.loader.exec_module(module)
    table: str = module.table()
    return table


def _layer_rules(name: str) -> Any:
    """A constant of tests/test_layers.py, which checks the imports."""
    for node in ast.parse((ROOT / "tests" / "test_layers.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            assert node.value is not None
            return ast.literal_eval(node.value)
    raise LookupError(name)


def _layers() -> str:
    """The layers of the package, the highest first."""
    layers = [sorted(room for room in layer if not room.startswith("__")) for layer in _layer_rules("LAYERS")]
    rows = [", ".join(f"`{room}`" for room in layer) for layer in layers if layer]
    lines = [f"| {number} | {row} |" for number, row in reversed(list(enumerate(rows, 1)))]
    return "\n".join(["| layer | rooms |", "|---|---|", *lines]) + "\n"


def _homes() -> str:
    """The libraries that only some places import."""
    lines = [
        f"| `{library}` | {', '.join(f'`{home}`' for home in homes)} |"
        for library, homes in _layer_rules("HOMES").items()
    ]
    return "\n".join(["| library | imported only by |", "|---|---|", *lines]) + "\n"


def _schema_header() -> str:
    """The command that prints the header, and its answer."""
    return f"```console\n$ tokentrace schema header\n{HEADER}\n```\n"


def _json_fields() -> str:
    """The fields of a span in JSON."""
    lines = []
    for field in bundled_schema("span")["fields"]:
        kind = next(branch for branch in field["type"] if branch != "null") if isinstance(field["type"], list) else (
            field["type"]
        )  # fmt: skip
        if isinstance(kind, dict):
            symbols = ", ".join(kind.get("symbols", ()))
            kind = {"enum": symbols, "map": "object", "long": "long"}[kind["type"]]
        lines.append(f"| `{field['name']}` | {_JSON_KINDS.get(kind, kind)} |")
    return "\n".join(["| field | JSON |", "|---|---|", *lines]) + "\n"


def _operations() -> str:
    """The attributes that name an operation, and the operations that are calls."""
    keys = ", ".join(f"`{key}`" for key in conventions.OPERATION_KEYS)
    calls = ", ".join(f"`{name}`" for name in sorted(conventions.CALLS))
    return f"| attributes | operations that are calls, in any case |\n|---|---|\n| {keys} | {calls} |\n"


def _conventions() -> str:
    """The attributes that give each field."""
    lines = [
        f"| `{meaning.field}` | {', '.join(f'`{key}`' for key in meaning.keys)} | {meaning.doc} |"
        for meaning in conventions.MEANINGS
    ]
    return "\n".join(["| field | attributes | meaning |", "|---|---|---|", *lines]) + "\n"


_JSON_KINDS = {"long": "whole number", "double": "number", "string": "text", "boolean": "true or false"}
#: Programs that have the header of the span's messages as a constant.
EXAMPLES = (ROOT / "examples" / "node" / "publisher.js", ROOT / "examples" / "go" / "main.go")
HEADER = single_object_header(bundled_schema("span")).hex()

TABLES = {
    "schema header": _schema_header,
    "json fields": _json_fields,
    "operations": _operations,
    "conventions": _conventions,
    "layers": _layers,
    "homes": _homes,
    "sizing": _sizing,
    "configuration": markdown_table,
    "span families": span_families,
    "worker families": worker_families,
    "alert families": alert_families,
    "budget families": budget_families,
    "ledger families": ledger_families,
    "reject reasons": reject_reasons,
}


def operator_rules() -> str:
    """The rules as an object of the Prometheus Operator."""
    spec = RULES.read_text().partition("\ngroups:\n")[2]
    return (
        "# deploy/prometheus/rules.yml as an object of the Prometheus Operator. Written by `make docs`.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n"
        "metadata:\n  name: tokentrace\n  labels:\n    app.kubernetes.io/name: tokentrace\n"
        "spec:\n  groups:\n" + textwrap.indent(spec, "  ")
    )


def counts_schema(path: Path) -> str:
    """A schema of durable records, with `Counts` as the table of measures has it.

    Fields that are there keep their place, so that the bytes of what is written change only by what is added.
    """
    schema = json.loads(path.read_text())
    counts = _record(schema, "Counts")
    fields = {field["name"]: field for field in record_fields()}
    known = [field["name"] for field in counts["fields"] if field["name"] in fields]
    counts["fields"] = [fields[name] for name in dict.fromkeys([*known, *fields])]
    return json.dumps(schema, indent=2) + "\n"


def _record(schema: Any, name: str) -> Any:
    """The record of this name inside a schema."""
    if isinstance(schema, dict) and schema.get("name") == name and schema.get("type") == "record":
        return schema
    inside = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return next((found for part in inside if (found := _record(part, name)) is not None), None)


def generated() -> dict[Path, str]:
    """Every file that has generated parts, as it should be."""
    files = {ROOT / "schemas" / "tokentrace.schema.json": json_schema(), OPERATOR_RULES: operator_rules()}
    files[CHART_RULES] = RULES.read_text()
    for name in COUNTS_SCHEMAS:
        path = ROOT / "schemas" / f"{name}.avsc"
        files[path] = counts_schema(path)
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for name, table in TABLES.items():
            pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
            text = re.sub(pattern, lambda match, table=table: match[1] + table() + match[2], text, flags=re.DOTALL)
        files[page] = text
    for program in EXAMPLES:
        files[program] = re.sub(r'"c301[0-9a-f]{16}"', f'"{HEADER}"', program.read_text())
    return files


def main() -> None:
    """Write what has changed."""
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
