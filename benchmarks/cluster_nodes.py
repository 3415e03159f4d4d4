"""Two Ray nodes on one machine, each with a network of its own.

A node is a network namespace with an address and its own ports, so that a raylet, a trainer process or a rollout server
in one reaches the other only through the address that it was told, as on two machines. Ray's temporary folder is each
node's own (a raylet deletes there what only another one still uses); all else of the disk is shared, as two machines
share a file system, and so are the cores. A node is switched off by killing every process in its namespace.

Needs Linux, iproute2 (`ip`) and the right to make network namespaces (root).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

BRIDGE, NETWORK, HERE = "critic-r1", "10.77.0", "10.77.0.254"
INTERFACE = "eth0"
DASHBOARD = 8265
PORT = 6379


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Node:
    """One node: ``head`` (which has GCS, dashboard and Jobs server) or another."""

    def __init__(self, number: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.address = f"critic-r1-{number}", f"{NETWORK}.{number}"
        self.head = number == 1
        self._link = f"crit{number}"
        self._folder, self._environment = folder, dict(environment)

    def connect(self) -> None:
        """Make the namespace and its cable to the bridge."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", INTERFACE, "netns", self.name)
        _ip("link", "set", self._link, "master", BRIDGE, "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", INTERFACE)
        for device in ("lo", INTERFACE):
            _ip("-n", self.name, "link", "set", device, "up")
        # Libraries find their own address by asking for the way to a far one; nothing is sent.
        _ip("-n", self.name, "route", "add", "default", "via", HERE)

    def start(self) -> None:
        """Start Ray here; returns when the node is being started, `Cluster.wait` when it is up."""
        own, seen = self._folder / self.name, self._folder / "ray"
        own.mkdir(exist_ok=True)
        seen.mkdir(exist_ok=True)
        mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'  # for the processes of this node only
        command = ["ip", "netns", "exec", self.name, "sh", "-c", mount, "sh", str(own), str(seen)]
        command += [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address", self.address]
        if self.head:
            command += ["--head", "--port", str(PORT), "--dashboard-host", self.address]
            command += ["--dashboard-port", str(DASHBOARD), "--temp-dir", str(seen)]
        else:
            command += ["--address", f"{NETWORK}.1:{PORT}"]
        # Logical, as in config/cluster/cpu.yaml: room for one training process and everything around it.
        command += ["--num-cpus", "16", "--num-gpus", "1", "--object-store-memory", "400000000"]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def processes(self) -> dict[int, str]:
        """Process ids in this node, each with its title."""
        found = {}
        for pid in _ip("netns", "pids", self.name).split():
            try:
                found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # ended meanwhile
        return found

    def actors(self, title: str) -> list[int]:
        """Process ids of Ray's actors of class ``title`` in this node."""
        return [pid for pid, name in self.processes().items() if name.startswith(f"ray::{title}")]

    def switch_off(self) -> int:
        """Kill (SIGKILL) every process in this node; returns how many there were."""
        killed = 0
        while pids := [pid for pid in self.processes() if not _is_zombie(pid)]:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    continue
            time.sleep(0.2)
        return killed

    def disconnect(self) -> None:
        """Remove the cable, which would stay for a while by itself, and the namespace."""
        subprocess.run(["ip", "link", "del", self._link], capture_output=True, check=False)
        _ip("netns", "del", self.name)


class Cluster:
    """A head and a second node; gone, with all their processes, when the block ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A cluster of our own must not ask for the token of another one on this machine.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        self.environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment["GLOO_SOCKET_IFNAME"] = INTERFACE  # as NCCL's on a real cluster; else it asks for a host name
        self.nodes = [Node(number, folder, self.environment) for number in (1, 2)]
        self.jobs = f"http://{self.nodes[0].address}:{DASHBOARD}"

    def __enter__(self) -> "Cluster":
        if shutil.which("ip") is None or os.geteuid() != 0:
            raise SystemExit("network namespaces need iproute2 and root: apt-get install iproute2, then run as root")
        self.folder.mkdir(parents=True, exist_ok=True)
        if Path("/sys/class/net", BRIDGE).exists():
            raise SystemExit(
                f"the bridge {BRIDGE} exists: another benchmark runs, or one was killed; then kill what "
                f"`ip netns pids` names, delete {self.nodes[0].name} and {self.nodes[1].name} (`ip netns del`) "
                f"and {BRIDGE} (`ip link del`)"
            )
        try:
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
            for node in self.nodes:
                node.connect()
            self.nodes[0].start()
            self._answers(DASHBOARD)
            self.nodes[1].start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _answers(self, port: int, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((self.nodes[0].address, port)) == 0:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"Ray did not start; see {self.folder}/*.log")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        known = {line.split()[0] for line in _ip("netns", "list").splitlines()}
        for node in reversed(self.nodes):
            if node.name in known:
                node.switch_off()
                node.disconnect()
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return True
