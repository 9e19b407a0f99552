"""Bill of materials: the distributions that a release or an image brings along, as CycloneDX 1.6 in JSON.

It is a script, too, which needs no more than pip: `python release/sbom.py FOLDER` lists a folder of installed
distributions, as the image does.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from typing import Any, Final

try:
    from packaging.requirements import Requirement
except ImportError:  # where nothing but pip is installed
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

_PREFIX: Final = "License :: OSI Approved :: "


def installed(folder: str | None = None) -> dict[str, Distribution]:
    """Return name -> distribution, of a folder, or of this interpreter."""
    found = distributions(path=[folder]) if folder else distributions()
    return {_name(distribution.name): distribution for distribution in found}


def needed(root: str, known: Mapping[str, Distribution]) -> dict[str, list[str]]:
    """Return name -> names that it needs, for a distribution and all that come with it, by their requirements.

    root: with extras, if any, such as `tokentrace[ledger]`.
    """
    top = Requirement(root)
    graph: dict[str, list[str]] = {}
    extras: dict[str, set[str]] = {top.name: set(top.extras)}
    waiting = [top.name]
    while waiting:
        name = waiting.pop()
        wanted = list(_requirements(known[name], extras[name]))
        graph[name] = sorted({_name(requirement.name) for requirement in wanted if _name(requirement.name) in known})
        for requirement in wanted:
            other = _name(requirement.name)
            before = extras.get(other)
            after = (before or set()) | requirement.extras
            if other in known and after != before:
                extras[other] = after
                waiting.append(other)
    return graph


def document(name: str, version: str, known: Mapping[str, Distribution], *, epoch: int, root: str) -> str:
    """Return the bill of materials. epoch: its time, seconds. root: what everything comes with, see `needed`."""
    graph, component = needed(root, known), Requirement(root).name
    others = [known[other] for other in sorted(graph) if other != component]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**_component(known[component]), "type": "application", "name": name, "version": version},
        },
        "components": [_component(distribution) for distribution in others],
        "dependencies": [
            {"ref": _purl(known[other]), "dependsOn": [_purl(known[wanted]) for wanted in graph[other]]}
            for other in sorted(graph)
        ],
    }
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def _requirements(distribution: Distribution, extras: Iterable[str]) -> Iterable[Requirement]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras))
        ):
            yield requirement


def _component(distribution: Distribution) -> dict[str, Any]:
    purl = _purl(distribution)
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": distribution.name,
        "version": distribution.version,
    }
    for summary in distribution.metadata.get_all("Summary") or ():
        found["description"] = summary
    if licenses := _licenses(distribution):
        found["licenses"] = licenses
    return found


def _licenses(distribution: Distribution) -> list[dict[str, Any]]:
    """Return the expression of SPDX identifiers, or the names under which older distributions give their license."""
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or ():
        return [{"expression": expression}]
    names = [text.removeprefix(_PREFIX) for text in metadata.get_all("Classifier") or () if text.startswith(_PREFIX)]
    if not names:
        names = [text.strip().splitlines()[0] for text in metadata.get_all("License") or () if text.strip()]
    return [{"license": {"name": name}} for name in sorted(names)]


def _purl(distribution: Distribution) -> str:
    return f"pkg:pypi/{_name(distribution.name)}@{distribution.version}"


def _name(name: str) -> str:
    """Return a name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Print the bill of the distributions in a folder. The arguments are the folder, and extras of tokentrace."""
    known = installed(sys.argv[1])
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
    root = f"tokentrace[{','.join(sys.argv[2:])}]"
    print(document("tokentrace", known["tokentrace"].version, known, epoch=epoch, root=root), end="")


if __name__ == "__main__":
    main()
