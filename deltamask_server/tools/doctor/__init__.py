"""``deltamask doctor``: is this machine ready to take part in a federation, and if not, what is to be done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from common.config.cache_path import default_cache_path
from common.data.pixel_range import read_pixel_range
from deltamask_server.tools.doctor.backbone_weights import check_weights
from deltamask_server.tools.doctor.clock import check_clock
from deltamask_server.tools.doctor.data import check_data
from deltamask_server.tools.doctor.facts import check_facts
from deltamask_server.tools.doctor.finding import Finding, Status
from deltamask_server.tools.doctor.keys import check_node_key, check_server_key
from deltamask_server.tools.doctor.machine import (
    check_device,
    check_disk,
    check_libraries,
    check_memory,
    check_python,
)
from deltamask_server.tools.doctor.network import check_reachable
from deltamask_server.tools.doctor.setting import Setting
from deltamask_server.tools.doctor.signin import check_sign_in
from deltamask_server.tools.doctor.tls import check_ca, check_plain, check_tls

__all__ = ["Finding", "Setting", "Status", "examine"]


def examine(setting: Setting, now: datetime) -> Iterator[Finding]:
    """Check a machine, from what everything rests on to what rests on it.

    Parameters
    ----------
    setting
        What it is to be.
    now
        The time by its clock, with its zone.

    Returns
    -------
    One finding after the other, as they are made. What needs something that failed is left out.
    """
    yield check_python()
    libraries = check_libraries()
    yield libraries
    yield check_device(setting.device)
    yield check_memory()
    yield check_disk("disk: Flower", setting.flwr_home, setting.free_disk_gb)
    yield check_clock(now)
    yield from _network(setting, now)
    if libraries.status == Status.failed:
        return

    cache = setting.cache or default_cache_path()
    yield check_weights()
    yield check_disk("disk: cache", cache, setting.free_disk_gb)
    if setting.data:
        yield from check_data(setting.data, cache, read_pixel_range(setting.pixel_range))
    if setting.facts:
        yield from check_facts(setting.facts, now, setting.root_certificates)


def _network(setting: Setting, now: datetime) -> Iterator[Finding]:
    """Files of TLS first, then the way to the SuperLink, then what is spoken there."""
    sound = []
    ca, key, address = setting.root_certificates, setting.auth_key, setting.superlink
    if ca:
        sound.append(check_ca(ca, now))
    if key:
        sound.append(check_node_key(key))
    if setting.server_key and setting.server_certificate:
        sound.append(check_server_key(setting.server_key, setting.server_certificate))
    yield from sound
    if not address:
        return
    reachable = check_reachable(address)
    yield reachable
    if reachable.status == Status.failed:
        return
    if setting.insecure:
        yield from check_plain(address)
    elif ca and sound[0].status != Status.failed:
        sound += check_tls(address, ca, now)
        yield from sound[-2:] if sound[-1].check == "grpc" else sound[-1:]
        if key and all(each.status != Status.failed for each in sound):
            yield check_sign_in(address, ca, key)
