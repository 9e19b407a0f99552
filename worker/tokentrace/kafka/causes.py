"""Causes: why connections to brokers fail, as a sentence that says what to change.

The answer to a request says no more than that no broker could be reached. What went wrong with a connection arrives at
a client's error callback, in words of the library and of OpenSSL; that a broker has closed one, only in the library's
own log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import KafkaError

from tokentrace.kafka.errors import REFUSED, UNAUTHORIZED

#: Words of the library -> the cause, and what to change under kafka.properties. The first that fits holds.
_CAUSES: Final = (
    (
        "certificate verify failed",
        "the broker's TLS certificate is not trusted, or not for this name; set ssl.ca.location under kafka.properties "
        "to the certificates of the authority that signed it",
    ),
    (
        "PLAINTEXT broker listener",
        "the port does not speak TLS; correct it, or security.protocol under kafka.properties",
    ),
    (
        "certificate required",
        "the broker requires a certificate; set ssl.certificate.location and ssl.key.location under kafka.properties",
    ),
    (
        "bad certificate",
        "the broker does not trust this certificate; correct ssl.certificate.location under kafka.properties",
    ),
    (
        "not valid in current SASL state",
        "the port takes no credentials; correct it, or security.protocol under kafka.properties",
    ),
    ("mechanism", "the broker does not take such credentials; correct sasl.mechanism under kafka.properties"),
    ("SSL handshake failed", "TLS fails; check its settings under kafka.properties"),
)
#: The same of a connection that the broker has closed at the client's first requests.
_CLOSED: Final = (
    (
        "in state APIVERSION_QUERY",
        "the port seems to speak TLS; set security.protocol under kafka.properties to SSL or SASL_SSL, or correct the "
        "port",
    ),
    (
        "in state UP",
        "the port seems to ask for credentials; set security.protocol under kafka.properties to SASL_SSL or "
        "SASL_PLAINTEXT, or correct the port",
    ),
)
_REFUSED: Final = "the broker refuses the credentials; correct sasl.username and sasl.password under kafka.properties"
#: The name of the connection before the library's words, and behind them how long it lasted and how often that was.
_CONNECTION: Final = re.compile(r"^(?:.*\[thrd:[^\]]*\]: )?\S+/(?:bootstrap|\d+): ")
_LASTED: Final = re.compile(r" \(after \d+ms in state \w+(?:[^()]|\([^)]*\))*\)")
#: A connection that was not made at all: whatever was the matter before, it is another matter now.
_NOT_MADE: Final = "in state CONNECT"


def of_any_attempt(words: str) -> str:
    """Return the library's words about a connection without what differs between its attempts."""
    return _LASTED.sub("", _CONNECTION.sub("", words))


class _Handler(logging.Handler):
    """Gives the text of each line to a function."""

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


class Causes:
    """The last cause that a callback has brought, with its details.

    text: empty while none is known. found: how many connections have told why they failed.
    """

    def __init__(self) -> None:
        self.text = ""
        self.found = 0

    def note(self, error: KafkaError) -> None:
        """Take an error of a callback."""
        self._note(error.str(), _CAUSES, _REFUSED if error.code() in REFUSED - UNAUTHORIZED else "")

    def logger(self) -> logging.Logger:
        """Return a logger for a client that has just been made, which takes the library's lines and writes none."""
        logger = logging.Logger("causes", logging.INFO)
        logger.addHandler(_Handler(lambda line: self._note(line, (*_CAUSES, *_CLOSED))))
        return logger

    def _note(self, words: str, causes: Sequence[tuple[str, str]], otherwise: str = "") -> None:
        """Take the library's words. Those that say nothing of TLS or credentials leave the cause as it is."""
        cause = next((cause for needle, cause in causes if needle in words), otherwise)
        if cause:
            self.text = f"{cause} ({of_any_attempt(words)})"
        elif _NOT_MADE in words:
            self.clear()
        self.found += bool(cause) or _NOT_MADE in words

    def clear(self) -> None:
        """Forget the cause: a broker has answered."""
        self.text = ""
