"""Hosts made of Linux namespaces: on this one machine, each with an address, processes, a name and an sshd of its own.

A host is a process tree in network, mount, PID, UTS and IPC namespaces of its own, so that `ray stop` inside sees and
ends nothing outside. Its /tmp, /run and /dev/shm are empty at each start; /root is its disk, which a power-off keeps;
everything else is this machine's, the Python environment read-only. When its first process ends, everything of it ends,
mounts and interfaces included; that process ends with the test, even one that is killed. What is left then is a bridge,
which the next use takes away.

Needs root, iproute2, util-linux, openssh-server and rsync; `what_is_missing` says which of it this machine lacks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BRIDGE = "raybench0"
NETWORK = "10.213.77"  # /24; this machine is .1 in it
LOCK = Path("/run/lock/raybench-hosts.lock")
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")
_COVERED = ("/root", "/tmp", "/run", "/dev/shm")  # a host has its own there
_START_SECONDS = 60.0

# The first process of a host. What lies in a folder that is about to be covered is held open, and bound to its place
# afterwards.
_INIT = """
set -euo pipefail
name=$1 disk=$2 names=$3; shift 3
mount --make-rprivate /
hostname "$name"
mount --bind "$names" /etc/hosts
exec {root}< "$disk"
declare -A kept
for folder in "$@"; do exec {descriptor}< "$folder"; kept[$folder]=$descriptor; done
for folder in /tmp /run /dev/shm; do mount -t tmpfs tmpfs "$folder"; done
chmod 1777 /tmp /dev/shm
mount --no-canonicalize --bind "/proc/self/fd/$root" /root
for folder in "${!kept[@]}"; do
  mkdir -p "$folder"
  mount --no-canonicalize --bind "/proc/self/fd/${kept[$folder]}" "$folder"
  mount -o remount,bind,ro "$folder"
done
mkdir -p /run/sshd /run/lock
cd /root
/usr/sbin/sshd -D -e -f /root/.ssh/sshd_config 2> /root/sshd.log &
while true; do wait -n || sleep 1; done
"""

_SSHD = """
Port 22
HostKey /root/.ssh/key
AuthorizedKeysFile /root/.ssh/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
UseDNS no
PidFile none
MaxStartups 50
"""


def what_is_missing() -> str:
    """Why no hosts can be made here, in a few words; empty where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts made of namespaces need Linux and root"
    for tool, package in {
        "ip": "iproute2", "unshare": "util-linux", "/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client",
        "rsync": "rsync",
    }.items():  # fmt: skip
        if shutil.which(tool) is None:
            return f"no {tool} here ({package})"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True
    )
    if tried.returncode:
        return f"no namespaces can be made here: {tried.stderr.decode().strip()}"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "add", BRIDGE, "type", "bridge"], capture_output=True)
    return f"no bridge can be made here: {tried.stderr.decode().strip()}" if tried.returncode else ""


@dataclass
class Host:
    """A machine of its own, on whose disk the key lies that opens all of them to root."""

    name: str
    address: str
    disk: Path  # its /root
    names: Path  # its /etc/hosts
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def power_on(self) -> None:
        """Start it, with an empty /tmp and what its disk has kept; returns when ssh answers."""
        environment = Path(sys.prefix).resolve()
        base = Path(sys.base_prefix).resolve()
        kept = [str(folder) for folder in dict.fromkeys((environment, base)) if str(folder) != "/usr"]
        # setpriv: whatever ends this test ends the host.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        arguments = ["bash", "-c", _INIT, "init", self.name, str(self.disk), str(self.names), *kept]
        with (self.disk.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _wait_for(lambda: bool(self._inside()), f"{self.name} did not start")
        self._plug_in()
        _wait_for(lambda: _answers(self.address, 22), f"no sshd on {self.name}")
        assert "pytest" not in self.run("ps", "-e", "-o", "args="), f"{self.name} sees processes that are not its own"

    def power_off(self) -> None:
        """All of it ends at once, as when the plug is pulled: no connection is closed, no file written to its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        _quietly("ip", "link", "delete", self._interface)

    def run(self, *command: str) -> str:
        """Run a command inside, as its console would; returns what it printed."""
        inside = ["nsenter", "--all", "--target", str(self._inside()), *command]
        return subprocess.run(inside, check=True, capture_output=True, text=True, timeout=60).stdout

    def processes(self) -> list[str]:
        """The command lines of what runs inside, but for its first process and sshd."""
        lines = self.run("ps", "-e", "-o", "args=").splitlines()
        return [line for line in lines if not line.startswith(("bash -c", "ps -e", "sshd", "/usr/sbin/sshd", "sleep"))]

    @property
    def _interface(self) -> str:
        return f"rb{self.address.rpartition('.')[2]}"

    def _inside(self) -> int:
        """The process number, out here, of its first process; 0 before there is one. Raises when it has ended."""
        assert self.process is not None, f"{self.name} is off"
        assert self.process.poll() is None, f"{self.name} has ended"
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children else 0

    def _plug_in(self) -> None:
        inside = str(self._inside())
        peer = ["peer", "name", "eth0", "netns", inside]
        _ip("link", "add", self._interface, "type", "veth", *peer)
        _ip("link", "set", self._interface, "master", BRIDGE, "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", f"{NETWORK}.1"],
        ):
            subprocess.run(["nsenter", "--net", "--target", inside, "ip", *words], check=True)


@contextmanager
def hosts(folder: Path, names: Sequence[str]) -> Iterator[tuple[list[Host], Path]]:
    """Running hosts with addresses from .11 on, and the private key that opens them; all is gone afterwards.

    `folder` holds their disks and logs. One test at a time has hosts on a machine; another waits.
    """
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    addresses = {name: f"{NETWORK}.{11 + i}" for i, name in enumerate(names)}
    listed = folder / "hosts"
    listed.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in addresses.items()))
    made = [Host(name, address, _disk(folder / name, key), listed) for name, address in addresses.items()]
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _quietly("ip", "link", "delete", BRIDGE)  # of a test that was killed
        _ip("link", "add", BRIDGE, "type", "bridge")
        try:
            _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
            for host in made:
                host.power_on()
            yield made, key
        finally:
            for host in made:
                host.power_off()
            _quietly("ip", "link", "delete", BRIDGE)


def _disk(folder: Path, key: Path) -> Path:
    """A host's /root: what sshd needs, and the DeepSpeed operators that this machine has built, if any."""
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh/sshd_config").write_text(_SSHD)
    for file in (key, key.with_suffix(".pub")):
        shutil.copy(file, folder / ".ssh")
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache/torch_extensions"))
    if built.exists():
        shutil.copytree(built, folder / ".cache/torch_extensions", ignore=shutil.ignore_patterns("lock"))
    return folder


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _quietly(*command: str) -> None:
    """Run what may find nothing to do."""
    with suppress(OSError):
        subprocess.run(command, capture_output=True, check=False)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.05)
