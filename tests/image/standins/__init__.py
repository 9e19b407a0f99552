"""Images that stand in for those of compose.yaml where no registry can be reached, under the same names.

Kafka is the one of `.cache`, which reads the same environment as its official image; Prometheus is Debian's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from tests.image.engine import Engine
from tests.services import READY, Unavailable
from tests.services.kafka import LIBS

FOLDER: Final = Path(__file__).parent
_BASE: Final = "localhost/tokentrace-services:bookworm"
_PACKAGES: Final = "openjdk-17-jre-headless,prometheus,ca-certificates"
#: Part of an image's name -> the file that it is built from.
_FILES: Final = {"apache/kafka": "kafka.Dockerfile", "prom/prometheus": "prometheus.Dockerfile"}


def provide(engine: Engine, image: str) -> None:
    """Pull an image or build one like it, unless it is there. Raises Unavailable where neither can be done."""
    if engine.there(image) or engine.run("pull", image, check=False, timeout_s=300).returncode == 0:
        return
    file = next((file for part, file in _FILES.items() if part in image), None)
    if file is None:
        raise Unavailable(f"{image} cannot be pulled, and no registry of packages has it")
    if not READY.exists():
        raise Unavailable("Kafka's jars are not in .cache; `make test` fetches them where Maven is installed")
    engine.debian(_BASE, _PACKAGES)
    with tempfile.TemporaryDirectory(prefix="tokentrace-standin-") as folder:
        context = Path(folder)
        for path in FOLDER.iterdir():
            if path.is_file():
                shutil.copy(path, context)
        shutil.copytree(LIBS, context / "libs")
        engine.build_file(context / file, context, image, BASE=_BASE)
