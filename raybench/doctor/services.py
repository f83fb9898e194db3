"""What a sweep talks to: its own host's name and ports, Ray and its token, MLflow's database or server."""

from __future__ import annotations

import base64
import os
import socket
import sqlite3
import stat
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit

from raybench.child import ask_child
from raybench.cluster.aws import NO_IMAGE
from raybench.cluster.placement import connection_problem
from raybench.doctor.finding import Finding
from raybench.machine.answers import ClusterAnswer
from raybench.redaction import without_secrets

_TIMEOUT = 3.0  # of one connection
_JOIN_SECONDS = 30.0  # of joining a Ray cluster, the import of ray included
_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PORTS = {6379: "ray up: the head's port", 8265: "Ray's dashboard", 5000: "mlflow ui"}


def host_name() -> Finding:
    """Whether this host's name leads to it: gloo and Ray look each other up by it."""
    name = socket.gethostname()
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        return Finding(
            "host name", "warning", f"{name} does not resolve: {error}",
            f"add the line '127.0.1.1 {name}' to /etc/hosts, or export GLOO_SOCKET_IFNAME=lo",
        )  # fmt: skip
    return Finding("host name", "ok", f"{name}: {', '.join(addresses)}")


def loopback() -> Finding:
    """Whether processes of this machine can talk to each other."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_TIMEOUT)
            with socket.create_connection(server.getsockname(), timeout=_TIMEOUT):
                server.accept()[0].close()
    except OSError as error:
        return Finding(
            "loopback", "error", f"no connection over 127.0.0.1: {error}", "ip link set lo up; see a firewall"
        )
    return Finding("loopback", "ok", "processes of this machine reach each other")


def ports() -> Finding:
    """Well-known ports that are taken; a local sweep needs none of them."""
    taken = [f"{port} ({use})" for port, use in _PORTS.items() if not connection_problem(f"127.0.0.1:{port}")]
    if taken:
        return Finding(
            "ports",
            "ok",
            f"in use: {', '.join(taken)}; a local sweep needs none of them, `mlflow ui --port` takes another",
        )
    return Finding("ports", "ok", f"free: {', '.join(map(str, _PORTS))}")


def ray_cluster() -> Finding:
    """The Ray that a sweep would join: RAY_ADDRESS's or this node's; else it starts one of its own."""
    asked = os.environ.get("RAY_ADDRESS", "")
    address = asked
    if asked in ("", "auto", "local"):
        there = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
        address = there.read_text().strip() if there.exists() and asked != "local" else ""
        if not address or connection_problem(address):
            return Finding("Ray", "ok", "no cluster runs on this node; a sweep starts its own and ends it")
    name = f"RAY_ADDRESS={asked}" if asked else f"the cluster of this node, {address}"
    remedy = "start it, or correct RAY_ADDRESS (unset: a sweep starts a Ray of its own)" if asked else "ray stop"
    if "://" not in address and (problem := connection_problem(address)):
        return Finding("Ray", "error", f"{name} does not answer: {problem}", remedy)
    answer = cast("ClusterAnswer", ask_child(["raybench.cluster.ray_probe", address], _JOIN_SECONDS))
    if "error" in answer:
        return Finding("Ray", "error", f"{name} cannot be joined: {answer['error']}", f"{remedy}; see the token, too")
    if not answer["slots"]:
        return Finding(
            "Ray", "warning", f"{name}: {answer['description']}; no node declares a slot, so trials run one at a time",
            "start each node with --resources='{\"bench_slot\": 1}'",
        )  # fmt: skip
    return Finding("Ray", "ok", f"{name}: {answer['description']}, {answer['slots']} slots")


def cluster_file() -> list[Finding]:
    """Whether a cluster.yaml that lies here has the image without which AWS starts nothing."""
    path = Path("cluster.yaml")
    if not path.is_file() or NO_IMAGE not in path.read_text(encoding="utf-8", errors="replace"):
        return []
    remedy = "before `ray up cluster.yaml`: python -m raybench.cluster aws"
    return [Finding("cluster.yaml", "warning", "has no machine image yet, so AWS can start no node", remedy)]


def ray_token() -> Finding:
    """The token with which processes of a Ray cluster know each other."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding("Ray's token", "ok", "in RAY_AUTH_TOKEN")
    if not path.exists():
        if mode == "token":
            return Finding(
                "Ray's token", "error", f"RAY_AUTH_MODE=token, and there is none at {path}",
                "ray get-auth-token --generate, or copy the cluster's to this path",
            )  # fmt: skip
        return Finding("Ray's token", "ok", "none; a Ray of this machine alone makes its own")
    if not path.read_text().strip():
        return Finding("Ray's token", "error", f"{path} is empty", "ray get-auth-token --generate")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode_text = stat.filemode(path.stat().st_mode)
        return Finding("Ray's token", "warning", f"{path} can be read by others ({mode_text})", f"chmod 600 {path}")
    return Finding("Ray's token", "ok", str(path))


def mlflow() -> Finding:
    """MLflow's database or server: MLFLOW_TRACKING_URI, else MLflow's own default."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    without = "a sweep runs without it, and raybench.sync brings it up to date later"
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        problem = _server_problem(uri)
        remedy = f"start it (mlflow server ...), or correct MLFLOW_TRACKING_URI; {without}"
        if problem:
            return Finding("MLflow", "warning", f"{without_secrets(uri)}: {problem}", remedy)
        return Finding("MLflow", "ok", f"{without_secrets(uri)} answers")
    if parts.scheme == "sqlite":
        return _database(Path(uri.removeprefix("sqlite:///")), without)
    if parts.scheme in ("", "file"):
        return Finding(
            "MLflow", "warning", f"{uri}: MLflow 3 no longer supports stores of plain files",
            "unset MLFLOW_TRACKING_URI, or name a database: sqlite:///mlflow.db",
        )  # fmt: skip
    port = parts.port or next((p for kind, p in _DATABASES.items() if parts.scheme.startswith(kind)), None)
    if port is None:
        return Finding("MLflow", "ok", f"{without_secrets(uri)}, which is not looked at")
    if problem := connection_problem(f"{parts.hostname}:{port}"):
        return Finding("MLflow", "warning", f"{without_secrets(uri)}: {problem}", f"start the database; {without}")
    return Finding("MLflow", "ok", f"{without_secrets(uri)} answers")


def _server_problem(uri: str) -> str:
    """Why a tracking server does not answer; empty where it does. It is asked for what only the allowed may see."""
    parts = urlsplit(uri)
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if parts.username:
        user, password = parts.username, parts.password or ""
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/experiments/search", data=b'{"max_results": 1}', headers=headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return "it wants MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; they are missing or wrong here"
        return f"it answers with HTTP {error.code}"
    except (OSError, ValueError) as error:
        return f"no answer: {getattr(error, 'reason', None) or error}"


def _database(path: Path, without: str) -> Finding:
    """Whether an SQLite file can be opened and written, or made."""
    remedy = f"make it writable, or name another: MLFLOW_TRACKING_URI=sqlite:////path/mlflow.db; {without}"
    if not path.exists():
        if os.access(path.absolute().parent, os.W_OK):
            return Finding("MLflow", "ok", f"{path.absolute()}, made by the first sweep")
        return Finding("MLflow", "warning", f"{path.absolute()} cannot be made", remedy)
    try:
        connection = sqlite3.connect(path.absolute(), timeout=_TIMEOUT, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding("MLflow", "warning", f"{path.absolute()}: {error}", remedy)
    return Finding("MLflow", "ok", f"{path.absolute()}")
