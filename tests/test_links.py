"""The thin links that benchmarks measure with."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.links import Link, Way, namespaces, run_in, why_not


def test_a_way_takes_turns_and_adds_its_delay() -> None:
    way = Way(bits_per_second=8000, delay=0.5)
    assert [way.arrival(now, 1000) for now in (0.0, 0.2, 5.0)] == [1.5, 2.5, 6.5]
    assert way.passed == 3000
    assert Way(delay=0.5).arrival(3.0, 10**6) == 3.5


def test_a_full_queue_and_bad_luck_lose_packets() -> None:
    way = Way(bits_per_second=8)
    assert [way.arrival(0.0, 1) for _ in range(1001)].count(None) == 1
    assert way.arrival(1.0, 1) == 1001.0
    lossy = Way(loss=0.1, seed=1)
    arrived = [lossy.arrival(0.0, 1) is not None for _ in range(10_000)]
    assert 0.88 < sum(arrived) / len(arrived) < 0.92
    assert lossy.lost == 10_000 - sum(arrived) == 10_000 - lossy.passed
    again = Way(loss=0.1, seed=1)
    assert [again.arrival(0.0, 1) is not None for _ in range(10_000)] == arrived


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_packets_cross_a_real_link() -> None:
    up, down = Way(bits_per_second=1e6, delay=0.05), Way(delay=0.05)
    with namespaces("dm-test-a", "dm-test-b"):
        ends = ("dm-test-a", "10.79.0.1/30"), ("dm-test-b", "10.79.0.2/30")
        with Link("dmt", *ends, up=up, down=down):
            receive = "import socket; s = socket.create_server(('10.79.0.1', 5000)); c = s.accept()[0]; n = 0\n"
            receive += "while d := c.recv(65536): n += len(d)\nc.sendall(str(n).encode())"
            send = "import socket, time\nfor _ in range(100):\n"
            send += " try: c = socket.create_connection(('10.79.0.1', 5000)); break\n"
            send += " except OSError: time.sleep(0.1)\n"
            send += "t = time.monotonic(); c.sendall(bytes(60000)); c.shutdown(socket.SHUT_WR); n = c.recv(100)\n"
            send += "print(n.decode(), time.monotonic() - t)"
            server = subprocess.Popen(run_in("dm-test-a", ["python3", "-c", receive]))
            try:
                client = run_in("dm-test-b", ["python3", "-c", send])
                done = subprocess.run(client, capture_output=True, text=True, timeout=60, check=True)
            finally:
                server.kill()
                server.wait()
    count, seconds = done.stdout.split()
    assert int(count) == 60_000
    assert float(seconds) >= 60_000 * 8 / 1e6 + 0.1, "neither rate nor delay can be beaten"
    assert up.passed > 60_000
