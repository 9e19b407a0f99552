"""A real Apache Kafka (KRaft) from the jars that `make` fetches: one broker, or a cluster of several."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.services import CACHE, ENDS_WITH_PARENT, READY, Freezable, Unavailable, end, free_port

LIBS = CACHE / "kafka"
_QUIET = logging.getLogger("tests.kafka")
_QUIET.disabled = True

_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
controller.quorum.voters={voters}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_alice="alice-secret";
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
min.insync.replicas={in_sync}
default.replication.factor={replicas}
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=3000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=500
log.cleaner.backoff.ms=1000
"""

#: Anonymous clients may do everything, alice only what her access control lists allow.
_RIGHTS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


#: A listener with a certificate that the authority in `ca.pem` has signed.
_TLS = """\
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},SSL://127.0.0.1:{tls_port},\
CONTROLLER://127.0.0.1:{controller_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT
listener.name.ssl.ssl.keystore.type=PEM
listener.name.ssl.ssl.keystore.location={keystore}
"""


def _certify(folder: Path) -> None:
    """Make an authority, `ca.pem`, and the key and certificate of a broker on this machine, `broker.pem`."""
    new, sign = "req -newkey rsa:2048 -nodes", "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial"
    for command in (
        f"{new} -x509 -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        f"{new} -keyout broker.key -out broker.csr -subj /CN=broker -addext subjectAltName=IP:127.0.0.1",
        f"{sign} -in broker.csr -out broker.crt -days 2 -copy_extensions copy",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (folder / "broker.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.crt").read_text())


class KafkaBroker(Freezable):
    """One broker. `bootstrap` takes anyone, `sasl_bootstrap` asks alice for her password (PLAIN, alice-secret).

    With tls, `tls_bootstrap` shows a certificate that the authority of `ca` has signed.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        ask_for_rights: bool = False,
        properties: str = "",
        node: int = 1,
        controller_ports: Mapping[int, int] | None = None,
        tls: bool = False,
    ) -> None:
        """Prepare a broker; Unavailable is raised without Java or without Kafka.

        ask_for_rights: alice may do only what access control lists allow. properties: lines of its own configuration.
        node: its id in a cluster, whose nodes all have the same controller_ports, by node. tls: listen with TLS too.
        """
        if shutil.which("java") is None:
            raise Unavailable("Java is not installed")
        if not READY.exists():
            raise Unavailable("Kafka's jars are not in .cache; `make test` fetches them where Maven is installed")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()
        self._sasl_port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.sasl_bootstrap = f"127.0.0.1:{self._sasl_port}"
        controller_ports = controller_ports or {node: free_port()}
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self._tls_port = folder / "ca.pem", free_port()
        self.tls_bootstrap = f"127.0.0.1:{self._tls_port}"
        if tls:
            if shutil.which("openssl") is None:
                raise Unavailable("openssl is not installed")
            _certify(folder)
            properties += _TLS.format(
                port=self.port,
                sasl_port=self._sasl_port,
                tls_port=self._tls_port,
                controller_port=controller_ports[node],
                keystore=folder / "broker.pem",
            )
        self._config = folder / "server.properties"
        self._config.write_text(
            _PROPERTIES.format(
                port=self.port,
                sasl_port=self._sasl_port,
                node=node,
                controller_port=controller_ports[node],
                voters=",".join(f"{number}@127.0.0.1:{port}" for number, port in controller_ports.items()),
                replicas=len(controller_ports),
                in_sync=len(controller_ports) // 2 + 1,
                data=folder / "logs",
            )
            + (_RIGHTS if ask_for_rights else "")
            + properties
        )
        if not (folder / "logs" / "meta.properties").exists():
            self._java(
                "kafka.tools.StorageTool", "format", "-t", "dG9rZW50cmFjZS10ZXN0cw", "-c", str(self._config)
            ).wait()

    def start(self, timeout_s: float = 180.0) -> None:
        """Start, or start again on the same port and data, and wait until it answers."""
        self.launch()
        self.wait_until_answering(timeout_s)

    def launch(self) -> None:
        """Start without waiting."""
        self._process = self._java("kafka.Kafka", str(self._config))

    def wait_until_answering(self, timeout_s: float = 180.0) -> None:
        """Wait for the answer to a request. A broker of a cluster needs a majority for it."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        admin = self.admin()
        while True:
            try:
                admin.list_topics(timeout=1.0)
                return
            except KafkaException:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "kafka.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Kafka did not start:\n{log}") from None

    def stop(self) -> None:
        """An orderly end; data stay."""
        if self._process is not None:
            end(self._process, signal.SIGTERM, 30.0)

    def kill(self) -> None:
        """As a crash; data stay."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)

    def wait(self) -> None:
        """Until it ends by itself."""
        assert self._process is not None
        self._process.wait()

    def admin(self) -> AdminClient:
        """An admin client that keeps failed tries to itself."""
        return AdminClient({"bootstrap.servers": self.bootstrap}, logger=_QUIET)

    def create_topic(self, name: str, partitions: int = 4, **settings: str) -> str:
        """Create a topic and wait until it is there. Returns its name."""
        config = {key.replace("_", "."): value for key, value in settings.items()}
        admin = self.admin()  # Has to outlive its answer.
        admin.create_topics([NewTopic(name, partitions, config=config)])[name].result()
        return name

    def _java(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        memory = ["-Xmx768m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        with (self._folder / "kafka.log").open("ab") as log:
            return subprocess.Popen(
                [*ENDS_WITH_PARENT, "java", *memory, "-cp", f"{LIBS}/*", main, *arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder,
            )  # fmt: skip


class KafkaCluster:
    """Brokers that replicate every topic to each other; a majority of them is enough for reads and writes."""

    def __init__(self, folder: Path, brokers: int) -> None:
        controller_ports = {node: free_port() for node in range(1, brokers + 1)}
        self.brokers = [
            KafkaBroker(folder / f"broker-{node}", node=node, controller_ports=controller_ports)
            for node in controller_ports
        ]
        self.bootstrap = ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> None:
        """Start all, and wait until all answer."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait_until_answering(120.0)

    def stop(self) -> None:
        """End all. An orderly end would wait for a majority that is gone."""
        for broker in self.brokers:
            broker.kill()

    def create_topic(self, name: str, partitions: int = 4, **settings: str) -> str:
        """Create a topic, replicated to all. Returns its name."""
        return self.brokers[0].create_topic(name, partitions, **settings)


def main() -> None:
    """Run a broker in the foreground."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        broker = KafkaBroker(arguments.data.resolve(), arguments.port)
    except Unavailable as error:
        raise SystemExit(f"No Kafka: {error}.") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        broker.start()
        broker.admin()
        with contextlib.suppress(KafkaException):
            broker.create_topic("llm-spans", 4)
        print(
            f"Apache Kafka is ready at {broker.bootstrap}, with a topic llm-spans of 4 partitions. Ctrl-C ends it.",
            flush=True,
        )
        broker.wait()
    except KeyboardInterrupt:
        print("Stopping Kafka.")
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
