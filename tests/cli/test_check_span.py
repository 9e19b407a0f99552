"""`tokentrace check-span`: what a worker would make of a message, in text and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tests.decode.helpers import record_schema, string, zigzag
from tests.services import ROOT
from tests.spanfactory import message, span
from tokentrace.model.advice import ADVICE
from tokentrace.model.bundled_schemas import fingerprint_of


def explained(folder: Path, value: bytes, *options: str) -> tuple[int, dict[str, Any]]:
    (folder / "message.bin").write_bytes(value)
    done = run("check-span", "message.bin", "--json", *options, folder=folder)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_a_span_that_is_counted_shows_labels_usage_cost_and_what_was_corrected(tmp_path: Path) -> None:
    value = message(
        span(
            model="gpt-4o", provider="openai", caller="search", cost_usd=None,
            prompt_tokens=1000, completion_tokens=200,
            cached_prompt_tokens=1001, reasoning_tokens=None, total_tokens=None,
            started_at=1_790_000_000_000, ended_at=1_790_000_000_005,
        )
    )  # fmt: skip
    code, found = explained(tmp_path, value)
    assert (code, found["counted"], found["reason"]) == (0, True, None)
    (group,) = found["groups"]
    assert group["labels"] == {"model": "gpt-4o", "provider": "openai", "caller": "search", "status": "ok"}
    assert group["usage"] == {"prompt": 2001, "completion": 200, "cache_read": 1001}
    # 1,000 at 2.50, 1,001 at 1.25 and 200 at 10 dollars a million.
    assert (group["cost_nano_usd"], group["cost_sources"]) == (1000 * 2500 + 1001 * 1250 + 200 * 10000, ["computed"])
    assert "gpt-4o" in group["price"]
    assert [one["kind"] for one in found["corrected"]] == ["prompt_excludes_cache", "clamped"]
    assert "in milliseconds it is 2026-09-21" in found["corrected"][1]["why"]
    assert (found["decoded"], found["framing"].partition(":")[0]) == ("columnar", "Avro single-object encoding")


def test_a_rejected_span_shows_the_field_and_what_to_change(tmp_path: Path) -> None:
    code, found = explained(tmp_path, message(span(prompt_tokens=-1)))
    assert (code, found["counted"], found["reason"]) == (1, False, "negative_tokens")
    assert [field["name"] for field in found["fields"] if field["wrong"]] == ["prompt_tokens"]
    assert found["advice"] == ADVICE["negative_tokens"]
    assert found["groups"] == []


def test_a_message_that_is_cut_is_decoded_as_far_as_it_goes(tmp_path: Path) -> None:
    code, found = explained(tmp_path, message(span(model="gpt-4o"))[:38])
    assert (code, found["reason"]) == (1, "malformed")
    assert {field["name"]: field["value"] for field in found["fields"]}["model"] == "gpt-4o"
    last = found["fields"][-1]
    assert last["wrong"]
    assert "the datum ends" in last["problem"]


def test_text_names_what_is_wrong_in_lines_that_a_terminal_can_show(tmp_path: Path) -> None:
    (tmp_path / "message.bin").write_bytes(message(span(model="\x1b[31mred", prompt_tokens=-1)))
    done = run("check-span", "message.bin", folder=tmp_path)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.endswith("<-- here")]
    assert line.split()[:2] == ["prompt_tokens", "-1"]
    assert "Verdict    rejected (negative_tokens)" in done.stdout
    assert f"Change     {ADVICE['negative_tokens']}" in done.stdout


def test_standard_input_hex_headers_and_configured_schemas_are_read(tmp_path: Path) -> None:
    schema = record_schema("Event", model="string", tokens="long", total_tokens="long")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "event.avsc").write_text(json.dumps(schema))
    version = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    (tmp_path / "tokentrace.yml").write_text(
        f"schemas: {{paths: [schemas], glue: {{{version}: schemas/event.avsc}}}}\n"
    )
    data = string("m") + zigzag(5) + zigzag(7)
    for header in (b"\xc3\x01" + fingerprint_of(schema), b"\x03\0" + bytes(range(16))):
        done = subprocess.run(
            [sys.executable, "-m", "tokentrace", "check-span", "-", "--hex", "--json"],
            input=(header + data).hex(), capture_output=True, text=True, cwd=tmp_path, check=False,
            env={"PYTHONPATH": f"{ROOT / 'worker'}", "PATH": ""},
        )  # fmt: skip
        found = json.loads(done.stdout)
        (group,) = found["groups"]
        assert (done.returncode, group["labels"]["model"], group["usage"]) == (0, "m", {"prompt": 7})
        fills = {field["name"]: field["fills"] for field in found["fields"]}
        assert fills == {"model": "model", "tokens": None, "total_tokens": "total_tokens"}
        assert "caller" in found["missing"]
    code, found = explained(tmp_path, data, "--header", "__value_schema_id=0000000005")
    assert (code, found["reason"]) == (1, "unknown_schema_id")
    assert found["framing"] == "the header __value_schema_id names the schema"


def test_json_is_explained_by_its_framing(tmp_path: Path) -> None:
    value = b'{"model": "gpt-4o", "provider": "openai", "prompt_tokens": 3}'
    code, found = explained(tmp_path, value)
    assert (code, found["reason"]) == (1, "unknown_framing")
    assert "kafka.framing: json" in found["error"]
    code, found = explained(tmp_path, value, "--framing", "json")
    assert (code, [group["usage"] for group in found["groups"]]) == (0, [{"prompt": 3}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Give one of FILE, --topic and --at PARTITION:OFFSET."),
        (["message.bin", "--topic"], "Give one of FILE"),
        (["missing.bin"], "missing.bin cannot be read (No such file or directory)."),
        (["message.bin", "--hex"], "message.bin is not hexadecimal text"),
        (["message.bin", "--header", "x"], "--header: 'x' is not NAME=HEX"),
        (["message.bin", "--header", "x=zz"], "--header is not hexadecimal text"),
        (["message.bin", "--framing", "xml"], "'xml' is not one of auto, confluent"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "message.bin").write_bytes(b"no hex")
    done = run("check-span", *options, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
