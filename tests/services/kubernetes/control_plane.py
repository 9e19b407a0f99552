"""A real control plane on loopback: etcd, API server, controllers and scheduler, and kubectl as its administrator."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.services import ENDS_WITH_PARENT, Unavailable, end, free_port
from tests.services.kubernetes import etcd, program
from tests.services.kubernetes.api import Api, Refused

#: User -> its group. The API server comes with rights for each of them.
_USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}
NODES = ("node-a", "node-b", "node-c")


def node_user(node: str) -> str:
    """The name of a kubelet, whose rights the Node authorizer gives: what the pods of its node need and no more."""
    return f"system:node:{node}"


class ControlPlane:
    """Starts with a data folder and ports of its own. Raises Unavailable where a program is missing."""

    def __init__(self, folder: Path) -> None:
        self._etcd = etcd()
        self._kubectl = program("kubectl")
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            program(name)
        if shutil.which("openssl") is None:
            raise Unavailable("openssl is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"https://127.0.0.1:{free_port()}"
        self._ca = folder / "certificates" / "apiserver.crt"
        groups = {**_USERS, **{node_user(node): "system:nodes" for node in NODES}}
        self._tokens = {user: secrets.token_hex(16) for user in groups}
        rows = [f'{self._tokens[user]},{user},{user},"{group}"\n' for user, group in groups.items()]
        (folder / "tokens.csv").write_text("".join(rows))

    def start(self) -> None:
        """Start all, and wait until the API server is ready."""
        command = ["openssl", "genrsa", "-out", str(self._folder / "accounts.key"), "2048"]
        subprocess.run(command, check=True, capture_output=True)
        port, peers = free_port(), f"http://127.0.0.1:{free_port()}"
        store = f"http://127.0.0.1:{port}"
        self._launch(
            [
                self._etcd,
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls={store}",
                f"--advertise-client-urls={store}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
            ]
        )
        keys = self._folder / "accounts.key"
        self._launch(
            [
                program("kube-apiserver"),
                f"--etcd-servers={store}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                f"--secure-port={self.url.rpartition(':')[2]}",
                f"--cert-dir={self._ca.parent}",
                f"--token-auth-file={self._folder / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--service-account-key-file={keys}",
                f"--service-account-signing-key-file={keys}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/24",
            ]
        )
        self._wait(lambda: self._ca.exists() and self.api().get("/readyz") == "ok", "become ready")
        for name, options in (
            (
                "kube-controller-manager",
                # Each controller comes as an account of its own, with its own rights.
                [
                    f"--service-account-private-key-file={keys}",
                    f"--root-ca-file={self._ca}",
                    "--use-service-account-credentials",
                ],
            ),
            ("kube-scheduler", []),
        ):
            config = self.kubeconfig(f"system:{name}")
            common = [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]
            self._launch([program(name), *common, *options])
        # Pods are refused in a namespace that the controllers have not made an account for yet.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait(lambda: bool(self.api().get(account)), "start its controllers")

    def _launch(self, command: list[str]) -> None:
        with (self._folder / f"{Path(command[0]).name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [*ENDS_WITH_PARENT, *command],
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder,
                )
            )  # fmt: skip

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if condition():
                    return
            except (OSError, Refused):
                pass
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in self._folder.glob("*.log"))
                raise RuntimeError(f"The control plane did not {what}:\n{logs}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all, the store last."""
        for process in reversed(self._processes):
            end(process)
        self._processes.clear()

    def api(self, user: str = "admin") -> Api:
        """A client as this user."""
        return Api(self.url, str(self._ca), self._tokens[user])

    def as_account(self, namespace: str, name: str) -> Api:
        """A client as a service account, with a token that the API server gives out for it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        return Api(self.url, str(self._ca), self.api().post(path, body)["status"]["token"])

    def kubeconfig(self, user: str) -> Path:
        """Write what programs of Kubernetes need to come as this user."""
        path = self._folder / f"{user.replace(':', '-')}.kubeconfig"
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self._ca)}}],
            "users": [{"name": "u", "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))
        return path

    def kubectl(self, *words: str, given: str | None = None, timeout_s: float = 300.0) -> str:
        """Run kubectl as the administrator and return what it prints. Raises AssertionError where it fails."""
        done = self.try_kubectl(*words, given=given, timeout_s=timeout_s)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_kubectl(
        self, *words: str, given: str | None = None, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl, which may fail. given: its standard input."""
        config = str(self.kubeconfig("admin"))
        command = [self._kubectl, f"--kubeconfig={config}", f"--cache-dir={self._folder / 'kubectl'}", *words]
        return subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=self._folder
        )
