"""The sizes of one round by codec, as a picture: docs/images/codec-sizes.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["plot_sizes"]

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "codec-sizes.png"


def plot_sizes(codecs: dict[str, Any], compressors: dict[str, Any], d: int) -> Path:
    """Bars of bits a position on a log axis, and each codec's own limit as a mark.

    Parameters
    ----------
    codecs, compressors
        What `codec_figures` and `compressor_figures` returned.
    d
        Masked weights of both.
    """
    bars = {label: figures["bpp"] for label, figures in codecs.items()}
    limits = {label: figures["bound_bits"] / d for label, figures in codecs.items() if figures["bound_bits"]}
    others = {name: value for name, value in compressors.items() if name.startswith("z") and not isinstance(value, str)}
    bars = dict(sorted((bars | others).items(), key=lambda item: item[1]))
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(bars) + 1.2), layout="constrained")
    rows = range(len(bars))
    axes.barh(rows, list(bars.values()), height=0.62, color=["C7" if name in others else "C0" for name in bars])
    for row, (name, value) in zip(rows, bars.items(), strict=True):
        axes.text(value * 1.04, row, f"{value:.4f}", va="center", fontsize=8)
        if name in limits:
            axes.plot([limits[name]] * 2, [row - 0.42, row + 0.42], color="C3", linewidth=2)
    axes.plot([], [], color="C3", linewidth=2, label="the codec's own limit")
    entropy = compressors["entropy, d H(flips / d)"]
    axes.axvline(entropy, color="black", linewidth=1, linestyle="--", label="entropy of the flips")
    axes.set_yticks(rows, list(bars))
    axes.set_xlim(min([*bars.values(), *limits.values()]) / 1.5, max(bars.values()) * 1.7)
    axes.set(xscale="log", xlabel=f"bits a position, one update of {d:,} of which {compressors['flips']:.2%} flip")
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower right", frameon=False)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)
    return PICTURE
