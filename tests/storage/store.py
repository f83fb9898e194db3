"""A real S3-compatible server on loopback (moto's), behind a door that a test can shut in mid-sentence."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

import boto3

KEY, SECRET = "AKIDOFATEST", "hush4711hush"


class Store:
    """`moto.server` in a process of its own, which keeps its objects in memory, and a door before it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.server = f"http://127.0.0.1:{port}"
        log = folder / "moto.log"
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=file, stderr=file, cwd=folder, env={**os.environ, "MOTO_PORT": str(port)},
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.server}/moto-api/data.json", timeout=5):
                    break
            except OSError:
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        self.door = Door(port)

    def close(self) -> None:
        self.door.close()
        self.process.terminate()
        self.process.wait(timeout=30)

    def client(self, service: str, key: str = KEY, secret: str = SECRET) -> Any:
        """boto3's, past the door."""
        return boto3.client(
            service, endpoint_url=self.server, region_name="us-east-1", aws_access_key_id=key,
            aws_secret_access_key=secret,
        )  # fmt: skip

    def bucket(self, name: str) -> str:
        """A new bucket; returns its URI."""
        self.client("s3").create_bucket(Bucket=name)
        return self.uri(name)

    def uri(self, path: str) -> str:
        """The URI of a bucket or what lies in it, through the door."""
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.door.port}&scheme=http"

    def names(self, bucket: str) -> list[str]:
        """Every object's name, past the door."""
        return [found["Key"] for found in self.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]

    def check_permissions(self, check: bool) -> None:
        """From now on only known users may do what their policies say, or anybody anything."""
        request = urllib.request.Request(
            f"{self.server}/moto-api/reset-auth", data=b"0" if check else b"inf",
            headers={"Content-Type": "text/plain"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=30):
            pass


class Door(socketserver.ThreadingTCPServer):
    """A relay of connections to a port: open, shut, or about to fall shut after so many bytes to the server."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target, self.port = target, self.server_address[1]
        self.bytes_left = math.inf
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def open(self) -> None:
        self.bytes_left = math.inf

    def shut(self, after: int = 0) -> None:
        """Cut every connection once so many bytes more have gone to the server."""
        self.bytes_left = after

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Relay(socketserver.BaseRequestHandler):
    server: Door
    size: ClassVar[int] = 4096

    def handle(self) -> None:
        if self.server.bytes_left <= 0:
            return
        with socket.create_connection(("127.0.0.1", self.server.target)) as target:
            back = threading.Thread(target=self._pass_on, args=(target, self.request), daemon=True)
            back.start()
            self._pass_on(self.request, target, counted=True)
            back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, counted: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self.size):
                if counted:
                    self.server.bytes_left -= len(data)
                if self.server.bytes_left < 0 or (self.server.bytes_left == 0 and not counted):
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
