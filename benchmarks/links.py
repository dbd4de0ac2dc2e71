"""Thin links between network namespaces of one machine: rate, delay and loss of each direction, packet by packet.

A link is two TUN interfaces, one in each namespace, and a process between them that passes packets on late, slowly, or
not at all: what ``tc netem`` does, for kernels that lack it as well. It needs root and /dev/net/tun.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Link", "Way", "namespaces", "run_in", "why_not"]

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET = 2048
"""Bytes; larger than the interfaces' MTU of 1500."""
_QUEUE = 1000
"""Packets that wait for their turn, netem's default; what comes when it is full is lost."""


@dataclass
class Way:
    """One direction of a link."""

    bits_per_second: float = 0.0
    """0: no limit."""
    delay: float = 0.0
    """Seconds."""
    loss: float = 0.0
    """Share of the packets, in [0, 1)."""
    seed: int = 0
    """Of the losses."""
    passed: int = field(default=0, init=False)
    """Bytes that arrived, with their IP headers."""
    lost: int = field(default=0, init=False)
    """Packets."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._free_at = 0.0
        self._leaving: list[float] = []

    def arrival(self, now: float, size: int) -> float | None:
        """When a packet that is sent now arrives at the other end; None if it never does."""
        while self._leaving and self._leaving[0] <= now:
            heapq.heappop(self._leaving)
        if len(self._leaving) >= _QUEUE or self._random.random() < self.loss:
            self.lost += 1
            return None
        begun = max(now, self._free_at)
        self._free_at = begun + (8 * size / self.bits_per_second if self.bits_per_second else 0.0)
        heapq.heappush(self._leaving, self._free_at)
        self.passed += size
        return self._free_at + self.delay


def why_not() -> str:
    """What this machine lacks for links; empty if nothing."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    return "" if shutil.which("ip") else "there is no `ip` (package iproute2)"


def run_in(namespace: str, command: list[str]) -> list[str]:
    """A command, to be run in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


@contextmanager
def namespaces(*names: str) -> Iterator[None]:
    """Make network namespaces with nothing but a loopback interface, and remove them at the end."""
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in made:
            _ip("netns", "del", name)


class Link:
    """Connects two namespaces while it is open.

    Parameters
    ----------
    name
        Of the interfaces, at most 13 characters; ``a`` and ``b`` are added.
    near, far
        Namespace and IPv4 address with prefix length of each end.
    up, down
        From far to near, and from near to far.
    """

    def __init__(self, name: str, near: tuple[str, str], far: tuple[str, str], up: Way, down: Way) -> None:
        self.up, self.down = up, down
        self._stop = threading.Event()
        near_end, far_end = (_interface(name + end, *where) for end, where in (("a", near), ("b", far)))
        self._ends = {near_end: (far_end, down), far_end: (near_end, up)}
        self._thread = threading.Thread(target=self._carry, name=f"link {name}", daemon=True)

    def __enter__(self) -> Link:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        count = 0
        with selectors.DefaultSelector() as ready:
            for end in self._ends:
                ready.register(end, selectors.EVENT_READ)
            while not self._stop.is_set():
                pause = min(waiting[0][0] - time.monotonic(), 0.2) if waiting else 0.2
                for key, _ in ready.select(max(pause, 0)):
                    packet = os.read(key.fd, _PACKET)
                    to, way = self._ends[key.fd]
                    when = way.arrival(time.monotonic(), len(packet))
                    if when is not None:
                        count += 1  # packets of one time keep their order
                        heapq.heappush(waiting, (when, count, to, packet))
                while waiting and waiting[0][0] <= time.monotonic():
                    _, _, to, packet = heapq.heappop(waiting)
                    os.write(to, packet)


def _interface(name: str, namespace: str, address: str) -> int:
    """Make a TUN interface in a namespace; its file stays with this process when the interface moves."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", name, "netns", namespace)
    _ip("-n", namespace, "address", "add", address, "dev", name)
    _ip("-n", namespace, "link", "set", name, "up")
    return end


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
