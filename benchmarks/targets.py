"""What the codecs are to reach, and whether the figures of one run do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Target", "print_targets", "targets"]


class Target(NamedTuple):
    """One figure and its limit."""

    name: str
    value: float | None
    """None where this machine could not measure it."""
    limit: float
    at_least: bool = False
    """The figure is to be at least the limit, not at most."""

    @property
    def met(self) -> bool | None:
        """None without a figure."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "met": self.met}


def targets(figures: dict[str, Any]) -> list[Target]:
    """Every target, with its figure out of those that `benchmarks.codecs` wrote."""
    return [*_of_filters(figures["filter"]), *_of_codecs(figures), *_of_the_rest(figures)]


def _of_filters(fuse: dict[str, Any]) -> Iterator[Target]:
    yield Target("filter: bits a key before PNG", fuse["bits a key, fingerprints"], 9.1)
    yield Target("filter: PNG beyond its fingerprints, bytes", fuse["PNG beyond its fingerprints, bytes"], 100)
    yield Target("filter: build, times the core's own", fuse["build, times the core's own"], 1.3)
    name = "membership, million positions a second"
    yield Target(f"filter: {name}", fuse[name], 300, at_least=True)
    name = "membership, times the core key by key"
    yield Target(f"filter: {name}", fuse[name], 60, at_least=True)
    name = "membership on one core, times the C loop"
    yield Target(f"filter: {name}", fuse.get(name), 0.9, at_least=True)


def _of_codecs(figures: dict[str, Any]) -> Iterator[Target]:
    for d, codecs in figures["codecs"].items():
        exact = codecs["exact"]
        beyond = exact["payload_bytes"] - 1.02 * exact["bound_bits"] / 8
        yield Target(f"exact, d = {d}: bytes beyond 1.02 x entropy given its contexts", beyond, 64)
    for d, presets in figures["relative at 0.003 bits of KL"].items():
        for preset, limit in (("fast", 1.7), ("default", 1.7), ("small", 1.35)):
            yield Target(f"relative {preset}, d = {d}: bits, times the KL", presets[preset]["bound_ratio"], limit)
        encoded, decoded = (presets["default"][f"{what}_rate"] / 1e6 for what in ("encode", "decode"))
        yield Target(f"relative default, d = {d}: encode, million positions a second", encoded, 2, at_least=True)
        yield Target(f"relative default, d = {d}: decode, million positions a second", decoded, 100, at_least=True)


def _of_the_rest(figures: dict[str, Any]) -> Iterator[Target]:
    for codec, peaks in figures["memory beyond the inputs"].items():
        yield Target(f"{codec}: largest memory beyond the inputs, MiB", max(peaks.values()), 1024)
    for form, uplink, limit in (
        ("exact", "fuse8", 0.7),
        ("exact", "exact", 0.7),
        ("exact", "relative", 1.4),
        ("relay", "relative", 0.08),
    ):
        later = figures["downlink"][uplink][form][1:]
        yield Target(f"downlink {form} after {uplink}: bits a position from round 2 on", max(later), limit)


def print_targets(found: list[Target]) -> None:
    """One line each, met or missed."""
    width = max(len(target.name) for target in found)
    for target in found:
        sign, state = (
            ">=" if target.at_least else "<=",
            {True: "met", False: "MISSED", None: "not measured"}[target.met],
        )
        value = "-" if target.value is None else f"{target.value:,.3f}"
        print(f"{target.name:{width}} {value:>12} {sign} {target.limit:<8,} {state}")
