"""Containers for tests: by docker where its daemon answers, else by podman with settings of its own.

Where no registry can be reached, the base image is made from Debian's packages. Images stay in .cache, so that the next
run builds in less time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from release.build import Source
from release.image import command, engine

from tests.services import CACHE, ROOT, Unavailable

STORE: Final = CACHE / "containers"
#: The image is built under this name, unless TOKENTRACE_IMAGE names one that is there.
TAG: Final = os.environ.get("TOKENTRACE_IMAGE") or "tokentrace:under-test"
#: The base of deploy/Dockerfile, and the same from Debian's packages.
_BASE: Final = "docker.io/library/python:{python}-slim"
_PACKAGES: Final = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates"
_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")

#: Without overlays in the kernel, layers are whole folders. The journal is not there in a container.
_STORAGE: Final = '[storage]\ndriver = "{driver}"\nrunroot = "{store}/run"\ngraphroot = "{store}/graph"\n'
#: runc runs where cgroups are of both versions; crun does not. Limits are those that a container may set.
_CONTAINERS: Final = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
[network]
network_backend = "netavark"
"""


class Engine:
    """One engine, and what the tests ask of it. Raises Unavailable with the reason where there is none."""

    def __init__(self) -> None:
        name = engine()
        if name not in ("docker", "podman"):
            raise Unavailable(
                "containers need docker (with its daemon) or podman (Debian: podman runc netavark iptables)"
            )
        self.name = name
        #: Environment in which other programs, such as podman-compose, find the same images.
        self.environment = dict(os.environ)
        self._options: list[str] = []
        if name == "podman" and os.geteuid() == 0:
            store = STORE.resolve() / _driver()
            store.mkdir(parents=True, exist_ok=True)
            for variable, text in (("CONTAINERS_STORAGE_CONF", _STORAGE), ("CONTAINERS_CONF", _CONTAINERS)):
                path = store / f"{variable.lower()}.toml"
                path.write_text(text.format(store=store, driver=_driver()) if "{store}" in text else text)
                self.environment[variable] = str(path)
            # Without a cache of layers, each of which would be a copy of everything below it.
            self._options = ["--isolation", "chroot", "--layers=false"]

    def run(self, *words: str, check: bool = True, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine."""
        done = subprocess.run(
            [self.name, *words], env=self.environment, cwd=ROOT, capture_output=True, text=True,
            check=False, timeout=timeout_s,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done

    def build(self) -> str:
        """Build deploy/Dockerfile, unless the image is there. Returns the name of its base."""
        if "TOKENTRACE_IMAGE" in os.environ:
            return str(self.inspect(TAG)["Config"]["Labels"]["org.opencontainers.image.base.name"])
        python = "3.12"
        base = _BASE.format(python=python)
        if not self.there(base) and self.run("pull", base, check=False, timeout_s=120).returncode != 0:
            python = "3.11"  # of Debian 12
            base = _BASE.format(python=python)
            self.debian(base, _PACKAGES)
        source = Source.of(ROOT)
        words = command(self.name, source, TAG, [*self._options, "--build-arg", f"PYTHON={python}"])
        self.run(*words[1:], timeout_s=900)
        return base

    def build_file(self, path: Path, context: Path, tag: str, **arguments: str) -> None:
        """Build an image of the tests' own from a file, with a folder as context."""
        words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        self.run("build", *self._options, "--file", str(path), "--tag", tag, *words, str(context), timeout_s=600)

    def size(self, image: str) -> int:
        """Return the bytes of an image."""
        return int(self.inspect(image)["Size"])

    def inspect(self, what: str) -> dict[str, Any]:
        """Return what the engine knows of an image or a container."""
        (found,) = json.loads(self.run("inspect", what).stdout)
        result: dict[str, Any] = found
        return result

    @contextmanager
    def container(self, name: str, options: Sequence[str], words: Sequence[str] = ()) -> Iterator[str]:
        """Run a container of the image under test, and remove it at the end."""
        try:
            self.start(name, options, words)
            yield name
        finally:
            self.run("rm", "--force", name, check=False)

    def start(self, name: str, options: Sequence[str], words: Sequence[str] = (), image: str = TAG) -> None:
        """Start a container as production does: read-only, without rights, with little memory."""
        guarded = [
            "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--memory", "512m", "--network", "host",
        ]  # fmt: skip
        self.run("run", "--detach", "--name", name, *guarded, *options, image, *words)

    def healthy(self, name: str) -> bool:
        """Run the image's own health check inside, as the engine does from time to time."""
        image = self.inspect(TAG)
        check = (image["Config"].get("Healthcheck") or image["Healthcheck"])["Test"]  # docker's place, and podman's
        assert check[0] == "CMD"
        return self.run("exec", name, *check[1:], check=False).returncode == 0

    def there(self, image: str) -> bool:
        """Return True if the engine has an image of this name."""
        return self.run("image", "inspect", image, check=False).returncode == 0

    def debian(self, image: str, packages: str) -> None:
        """Make an image from Debian's packages, unless it is there. packages: separated by commas."""
        if self.there(image):
            return
        if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
            raise Unavailable(f"{image} cannot be pulled, and mmdebstrap (as root) is not here to make one like it")
        with tempfile.TemporaryDirectory(prefix="tokentrace-debian-") as folder:
            root = Path(folder) / "root"
            made = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={packages}", "bookworm", str(root)]
            done = subprocess.run(made, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(
                    f"{image} cannot be pulled, and Debian's packages cannot be had: {done.stderr[-300:]}"
                )
            # A proxy's authority, where there is one, is asked for inside, too.
            shutil.copy(_BUNDLE, root / _BUNDLE.relative_to("/"))
            archive = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
            words = [self.name, "import", "--change", f"ENV PIP_CERT={_BUNDLE}", "-", image]
            subprocess.run(words, stdin=archive.stdout, env=self.environment, check=True, capture_output=True)
            assert archive.wait() == 0


def _driver() -> str:
    """Return how podman keeps layers: as overlays where the kernel has them, which starts a container in a second."""
    overlays = "overlay" in Path("/proc/filesystems").read_text().split()
    return "overlay" if overlays else "vfs"
