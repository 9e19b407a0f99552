"""Secrets: planted in every option that takes one, they are found in nothing that tokentrace prints, logs or serves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from tests.cli.test_main import run
from tests.services.workers import WorkerProcess, write_config
from tokentrace.config import Config, load_config
from tokentrace.decode.schemas.registry import Registry, RegistrySettings
from tokentrace.errors import SchemaUnavailable, UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.model.secrets import HIDDEN, hide_secrets, public_property, public_url

#: In each secret value, and in no other.
MARK = "PLANT"

#: Properties of librdkafka that take a secret, or text that may contain one.
PROPERTIES = {
    "sasl.password": "PLANT-sasl",
    "ssl.key.password": "PLANT-key-password",
    "ssl.key.pem": "-----BEGIN PRIVATE KEY-----\nPLANT\n-----END PRIVATE KEY-----",
    "ssl.keystore.password": "PLANT-keystore",
    "sasl.oauthbearer.client.secret": "PLANT-oauth",
    "sasl.oauthbearer.config": "principal=PLANT",
    "sasl.oauthbearer.extensions": "token=PLANT",
    "sasl.oauthbearer.assertion.private.key.pem": "PLANT-assertion",
    "sasl.oauthbearer.assertion.private.key.passphrase": "PLANT-passphrase",
    "sasl.oauthbearer.token.endpoint.url": "https://user:PLANT@login/tenant-PLANT/token?key=PLANT",
    "sasl.kerberos.kinit.cmd": "echo PLANT | kinit",
}
HOOK = {"type": "http", "url": "http://u:PLANT@127.0.0.1:1/PLANT?t=PLANT", "headers": {"Authorization": "Bearer PLANT"}}


def planted(**properties: str) -> dict[str, Any]:
    """The sections of a configuration in which every secret is planted."""
    return {
        "kafka": {"bootstrap_servers": "127.0.0.1:1", "properties": properties},
        "worker": {"log_level": "debug"},
        "http_server": {"auth_token": "PLANT-token", "admin_token": "PLANT-admin"},
        "schema_registry": {
            "url": "http://u:PLANT@127.0.0.1:1/PLANT",
            "auth": {"username": "reader", "password": "PLANT-registry"},
        },
        "dimensions": {"user": {"source": "key", "hash": True, "hash_key": "PLANT-key-of-a-hash"}},
        "alerts": [{"name": "errors", "kind": "error_rate_spike", "delivery": HOOK}],
    }


def secret_fields(value: Any, path: str = "") -> Iterator[str]:
    """The path of each SecretStr that is set."""
    if isinstance(value, SecretStr):
        assert MARK in value.get_secret_value()
        yield path
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from secret_fields(item, path)
    elif isinstance(value, dict):
        for item in value.values():
            yield from secret_fields(item, path)
    elif hasattr(value, "model_fields_set"):
        for name in type(value).model_fields:
            yield from secret_fields(getattr(value, name), f"{path}.{name}")


def declared_secrets(schema: dict[str, Any]) -> int:
    """The number of secrets that the configuration's schema declares."""
    found = 0
    for key, item in schema.items():
        if key == "writeOnly":
            found += 1
        elif isinstance(item, dict):
            found += declared_secrets(item)
        elif isinstance(item, list):
            found += sum(declared_secrets(entry) for entry in item if isinstance(entry, dict))
    return found


def test_the_printed_configuration_shows_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "tokentrace.yml"
    path.write_text(yaml.safe_dump(planted(**PROPERTIES, **{"client.rack": "rack-1", "sasl.username": "reader"})))
    done = run("config", "check", "--print", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stdout
    shown = yaml.safe_load(done.stdout)
    assert shown["kafka"]["properties"]["client.rack"] == "rack-1"
    assert shown["kafka"]["properties"]["sasl.username"] == "reader"
    assert shown["kafka"]["properties"]["sasl.oauthbearer.token.endpoint.url"] == f"https://{HIDDEN}@login/{HIDDEN}"
    assert shown["schema_registry"]["url"] == f"http://{HIDDEN}@127.0.0.1:1/{HIDDEN}"
    assert shown["alerts"][0]["delivery"]["url"] == f"http://{HIDDEN}@127.0.0.1:1/{HIDDEN}"
    config = load_config(path)
    assert config.kafka.properties["sasl.password"] == "PLANT-sasl", "what is used is not hidden"
    # A bearer token excludes the user name and password that are planted.
    assert len(set(secret_fields(config))) == declared_secrets(Config.model_json_schema()) - 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_worker_that_cannot_log_in_shows_no_secret(tmp_path: Path, form: str) -> None:
    sections = planted(**{"security.protocol": "sasl_plaintext", "sasl.mechanisms": "PLAIN", "sasl.username": "u"})
    sections["kafka"]["properties"]["sasl.password"] = "PLANT-sasl"
    sections["kafka"]["properties"]["debug"] = "security,broker"
    del sections["schema_registry"]["auth"]  # Its URL has credentials.
    sections["worker"]["log_format"] = form
    worker = WorkerProcess(write_config(tmp_path / "worker.yml", sections, "worker"), tmp_path / "worker.log")
    try:
        worker.wait_for_log("No Kafka broker answers", 180.0)
        pages = [str(worker.get(path)[1]) for path in ("/health/ready", "/health", "/")]
    finally:
        worker.process.send_signal(signal.SIGINT)
        assert worker.process.wait(180) == 0
    assert "No Kafka broker answers" in pages[0]
    assert not [text for text in (worker.log(), *pages) if MARK in text]


def test_a_property_that_librdkafka_rejects_is_named_without_its_value() -> None:
    properties = {"security.protocol": "ssl", "ssl.key.pem": "PLANT", "ssl.key.password": "PLANT"}
    with pytest.raises(UsageError, match=r"^kafka\.properties: ") as raised:
        KafkaClients(bootstrap_servers="127.0.0.1:1", properties=properties).admin()
    assert MARK not in str(raised.value)


def test_a_registry_that_does_not_answer_is_named_without_its_secrets() -> None:
    registry = Registry(RegistrySettings("http://u:PLANT@127.0.0.1:1/PLANT?key=PLANT", timeout_s=0.5))
    with pytest.raises(SchemaUnavailable, match=r"at http://\*+@127\.0\.0\.1:1/\*+ does not answer") as raised:
        registry.get(1)
    assert MARK not in str(raised.value)


@pytest.mark.parametrize("name", PROPERTIES)
def test_public_property_hides_a_secret(name: str) -> None:
    assert MARK not in str(public_property(name, PROPERTIES[name]))


@pytest.mark.parametrize("value", [12345678, 1.5, True])
def test_public_property_hides_a_secret_that_is_a_number(value: float) -> None:
    assert public_property("sasl.password", value) == HIDDEN
    assert public_property("linger.ms", value) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://user:PLANT@host:1/path", f"at https://{HIDDEN}@host:1/path"),
        ("at https://user:PL@PLANT@host:1/path", f"at https://{HIDDEN}@host:1/path"),
        ("at https://user:PL/PLANT@host:1/path", f"at https://{HIDDEN}@host:1/path"),
        ("GET 'https://host/path?token=PLANT'", f"GET 'https://host/path?{HIDDEN}'"),
        ("Authorization: Bearer PLANT.a-b", f"Authorization: Bearer {HIDDEN}"),
        ("authorization: bearer PLANT.a-b", f"authorization: bearer {HIDDEN}"),
        ("{'sasl.password': 'PLANT, x', 'a': 'b'}", f"{{'sasl.password': '{HIDDEN}', 'a': 'b'}}"),
        ('{"access_token":"PLANT"}', f'{{"access_token":"{HIDDEN}"}}'),
        ("sasl.password=PLANT, sasl.username=u", f"sasl.password={HIDDEN}, sasl.username=u"),
        ("-----BEGIN RSA PRIVATE KEY-----\nPLANT", HIDDEN),
        ("Topic 'a.b' at 127.0.0.1:9092", "Topic 'a.b' at 127.0.0.1:9092"),
    ],
)
def test_hide_secrets_knows_them_by_their_shape(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://registry:8081", "http://registry:8081"),
        ("http://registry:8081/", "http://registry:8081/"),
        ("http://registry/api", f"http://registry/{HIDDEN}"),
        ("http://registry?key=PLANT", f"http://registry/{HIDDEN}"),
        ("http://[::1", HIDDEN),
        ("http://user:PL/ANT@registry", HIDDEN),
        ("http://user:PL?ANT@registry", HIDDEN),
        ("http://user:12#PLANT@registry", HIDDEN),
        ("user:PLANT@registry", HIDDEN),
    ],
)
def test_public_url_keeps_scheme_host_and_port(url: str, shown: str) -> None:
    assert public_url(url) == shown
