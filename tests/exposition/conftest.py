"""Fixtures of the HTTP server's tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, which is its own authority, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return make_certificate(tmp_path)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate and its key."""
    folder.mkdir(exist_ok=True)
    cert, key = folder / "tls.crt", folder / "tls.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    _openssl("req -x509 -newkey rsa:2048 -nodes -days 2", *subject, "-keyout", str(key), "-out", str(cert))
    return cert, key


def make_expired_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that was valid for a day of 2020, and its key."""
    folder.mkdir(exist_ok=True)
    cert, key, request, config = (folder / name for name in ("tls.crt", "tls.key", "tls.csr", "ca.cnf"))
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01")
    config.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
    )
    _openssl(f"req -new -newkey rsa:2048 -nodes -subj /CN=old -keyout {key} -out {request}")
    dates = "-startdate 20200101000000Z -enddate 20200102000000Z"
    _openssl(f"ca -batch -selfsign -config {config} -keyfile {key} -in {request} -out {cert} -notext {dates}")
    return cert, key


def _openssl(command: str, *more: str) -> None:
    subprocess.run(["openssl", *command.split(), *more], check=True, capture_output=True)
