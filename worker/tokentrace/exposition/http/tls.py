"""TLS of the endpoint: the certificate is read again when its files change, without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tokentrace.errors import UsageError

log = logging.getLogger(__name__)

#: Time between two looks at the files.
LOOK_S: Final = 10.0

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files in PEM format. client_ca: authority whose certificate each client must present; None: none need one."""

    certificate: Path
    key: Path
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_ca: Path | None = None


class ServerTls:
    """The TLS context of the server."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises UsageError for files that cannot be used."""
        self._settings = settings
        self._version = self._look()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = _VERSIONS[settings.min_version]
        try:
            self.context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"http_server.tls: {settings.certificate} and {settings.key} cannot be used as certificate and key "
                f"({error})."
            ) from error
        if settings.client_ca is not None:
            try:
                self.context.load_verify_locations(settings.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(
                    f"http_server.tls.client_ca: {settings.client_ca} cannot be used as an authority ({error})."
                ) from error
            self.context.verify_mode = ssl.CERT_REQUIRED

    async def follow(self) -> None:
        """Look at the files from time to time, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.reload()

    def reload(self) -> None:
        """Use the files for new connections if they have changed. Files that cannot be used change nothing."""
        version = self._look()
        if version == self._version:
            return
        certificate, key = self._settings.certificate, self._settings.key
        try:
            # A context keeps half of a pair that does not fit.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            self.context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            log.error(
                "The changed certificate %s cannot be used (%s); the one before it still serves.", certificate, error
            )
            return
        self._version = version
        log.info("The certificate %s has been read again.", certificate)

    def _look(self) -> list[tuple[int, int, int]]:
        """Return what changes with the files; empty while one of them is not there."""
        try:
            found = [path.stat() for path in (self._settings.certificate, self._settings.key)]
        except OSError:
            return []
        return [(file.st_ino, file.st_mtime_ns, file.st_size) for file in found]
