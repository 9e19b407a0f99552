"""docs/architecture.md: its picture and its table of rooms name the packages that there are."""

from __future__ import annotations

import re

from tests.services import ROOT
from tests.test_layers import RANK

PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = {name for name in RANK if not name.startswith("__")}


def test_architecture_picture_draws_every_room_and_no_other() -> None:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    nodes = set(re.findall(r"\b(\w+)\[", picture.replace("subgraph around[", "")))
    assert {node for node in nodes if not node.startswith(("topic_", "out_"))} == ROOMS


def test_architecture_table_has_one_row_for_every_room() -> None:
    section = PAGE.partition("| room | responsibility |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| .{10,} \|$", section, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == ROOMS


def test_architecture_arrows_lead_from_and_to_drawn_nodes() -> None:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    drawn = set(re.findall(r"\b(\w+)\[", picture))
    ends = re.findall(r"^\s+(\w+)\S* .*-->\s*(\w+)|^\s+(\w+) -->\s*(\w+)", picture, re.MULTILINE)
    assert {name for pair in ends for name in pair if name} <= drawn
