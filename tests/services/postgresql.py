"""A real PostgreSQL from Debian's package, in a folder of its own, as a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.services import ENDS_WITH_PARENT, Freezable, Unavailable, end, free_port

#: Debian keeps the server's programs out of PATH, one folder a version.
_PROGRAMS = Path("/usr/lib/postgresql")
#: Users that may run the server where the tests run as root.
_USERS = ("postgres", "nobody")


class PostgreSql(Freezable):
    """One server. `url` is that of a database for SQLAlchemy and psycopg alike."""

    def __init__(self) -> None:
        """Prepare a server; raises Unavailable where it is not installed."""
        found = shutil.which("initdb")
        versions = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        if not versions and found is None:
            raise Unavailable("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        self._programs = versions[-1].parent if versions else Path(str(found)).parent
        self._as_user: tuple[str, ...] = ()
        # Below /tmp: another user may not enter the folders that pytest makes.
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        if os.getuid() == 0:
            user = pwd.getpwnam(next(name for name in _USERS if name in {entry.pw_name for entry in pwd.getpwall()}))
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        self.port = free_port()
        self.url = f"postgresql://ledger@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "ledger", "--auth=trust", "--no-sync", "-E", "UTF8")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def start(self, timeout_s: float = 180.0) -> None:
        """Start, or start again on the same port and data, and wait until it answers."""
        command = [
            *self._as_user, *ENDS_WITH_PARENT, str(self._programs / "postgres"), "-D", str(self._data),
            "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError("PostgreSQL did not start") from None
                time.sleep(0.1)

    def kill(self) -> None:
        """End it as a crash does; data stay."""
        if self._process is not None:
            end(self._process, signal.SIGQUIT)

    def close(self) -> None:
        """End it, and remove its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
