"""The table of `deltamask codec compare`, as wide as the terminal allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from common.codecs.base import entropy_bits
from deltamask_server.tools.codec_comparison.compare import Comparison

__all__ = ["print_comparisons"]


class _Column(NamedTuple):
    head: str
    cell: Callable[[Comparison], str]
    rank: int
    """Columns of the highest rank go first where the terminal is too narrow; 0 always stays."""


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _rate(value: float) -> str:
    return f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.2g}"


_COLUMNS = (
    _Column("codec", lambda each: each.codec, 0),
    _Column("bytes", lambda each: f"{each.payload_bytes:,}", 2),
    _Column("bpp", lambda each: f"{each.bpp:.5f}", 0),
    _Column("x entropy", lambda each: _ratio(each.entropy_ratio), 1),
    _Column("x limit", lambda each: _ratio(each.bound_ratio), 3),
    _Column("limit", lambda each: each.bound_name or "-", 3),
    _Column("wrong", lambda each: "-" if each.wrong is None else f"{each.wrong:,}", 0),
    _Column("enc M/s", lambda each: _rate(each.encode_rate), 4),
    _Column("dec M/s", lambda each: _rate(each.decode_rate), 4),
)
_NOTES = {
    "x entropy": "x entropy: bits against d H(flips / d): listing the flips where only their number is known",
    "x limit": "x limit: bits against what theory asks of this codec, named under limit",
    "wrong": "wrong: positions that do not arrive as meant, false or left out; a sample has none",
    "enc M/s": "M/s: million positions encoded or decoded in a second, the best of three",
}
"""What a column means, by its head."""


def print_comparisons(console: Console, source: str, d: int, flips: int, figures: list[Comparison]) -> None:
    """Print figures of several codecs on one update.

    Parameters
    ----------
    console
        Where to; columns that do not fit into its width are left out, and named.
    source
        Where the update comes from.
    d, flips
        Its size, and how many bits of its mask flip.
    figures
        One for each codec.
    """
    columns, left_out = list(_COLUMNS), []
    table = _table(columns, figures)
    for rank in (4, 3, 2, 1):
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
            break
        left_out += [column.head for column in columns if column.rank == rank]
        columns = [column for column in columns if column.rank != rank]
        table = _table(columns, figures)
    size = f"d = {d:,}, {flips:,} flips ({100 * flips / d:.3g} %)"
    console.print(f"{source}: {size}, entropy of the flips {entropy_bits(flips, d) / d:.5f} bpp\n")
    console.print(table)
    console.print()
    for head, note in _NOTES.items():
        if head not in left_out:
            console.print(note)
    if left_out:
        console.print(f"Too narrow for: {', '.join(left_out)}. --json has everything.")


def _table(columns: list[_Column], figures: list[Comparison]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.head, justify="left" if column.head in ("codec", "limit") else "right", no_wrap=True)
    for each in figures:
        table.add_row(*(column.cell(each) for column in columns))
    return table
