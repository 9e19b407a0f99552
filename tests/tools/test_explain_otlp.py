"""An explanation of a message of OpenTelemetry says how many spans it holds, and of which kinds."""

from __future__ import annotations

import pytest

from tests.otlpfactory import OtherSpan, to_json, traces
from tokentrace.config import Config
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.messages import Envelope
from tokentrace.tools.explain import Explainer
from tokentrace.tools.explain_text import lines_of

CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.system": "openai"}
USAGE = {**CALL, "gen_ai.usage.input_tokens": 1_000_000}


@pytest.mark.parametrize(
    ("attributes", "framing", "reason"),
    [
        ([USAGE, USAGE, {"a": 1}], "OTLP: 2 spans counted, 0 rejected, 1 that are not calls of a model", ""),
        ([{"a": 1}], "OTLP: 0 spans counted, 0 rejected, 1 that are not calls of a model", "ignored"),
        ([CALL], "OTLP: 0 spans counted, 1 rejected, 0 that are not calls of a model", "no_token_count"),
    ],
)
def test_explanation_tells_the_spans_of_a_message(
    attributes: list[dict[str, object]], framing: str, reason: str
) -> None:
    data = traces([("shop", [OtherSpan(dict(one)) for one in attributes])])
    for value in (data.SerializeToString(), to_json(data)):
        found = Explainer(Config(), WriterSchemas()).explain(Envelope("spans", 0, 0, None, value, (), None))
        assert (found.framing, found.reason, found.counted) == (framing, reason, not reason)
        if not reason:
            (group,) = found.groups
            assert (group.labels["model"], group.labels["caller"], group.cost_sources) == (
                "gpt-4o", "shop", ("computed",),
            )  # fmt: skip
            assert (group.spans, group.nano_usd) == (2, 2 * 2_500_000_000)


def test_every_group_of_a_message_is_told_beside_a_span_that_is_rejected() -> None:
    other = {**USAGE, "gen_ai.request.model": "gpt-4o-mini"}
    data = traces([("shop", [OtherSpan(dict(one)) for one in (USAGE, other, USAGE, CALL)])])
    found = Explainer(Config(), WriterSchemas()).explain(
        Envelope("spans", 0, 0, None, data.SerializeToString(), (), None)
    )
    costs = {group.labels["model"]: (group.spans, group.nano_usd) for group in found.groups}
    assert costs == {"gpt-4o": (2, 5_000_000_000), "gpt-4o-mini": (1, 150_000_000)}
    lines = lines_of(found)
    verdicts = [line.split()[1] for line in lines if line.startswith("Verdict")]
    assert verdicts == ["2", "counted", "rejected"]
    assert "Cost       5.000000000 USD, computed" in lines


def test_message_without_a_call_is_told_as_ignored_with_nothing_to_change() -> None:
    data = traces([("shop", [OtherSpan({"a": 1})])])
    envelope = Envelope("spans", 0, 0, None, data.SerializeToString(), (), None)
    lines = lines_of(Explainer(Config(), WriterSchemas()).explain(envelope))
    assert lines[-1] == "Verdict    ignored: No span of the message is a call of a model."
