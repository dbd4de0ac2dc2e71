"""The pictures of docs/algorithm.md, drawn with the project's own masks, codec and posterior.

    python -m benchmarks.figures          # -> docs/images/flips.png, docs/images/round.png

The probabilities are made up, so that there is something to see; all that follows from them is computed as in a run.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray
from PIL import Image

from common.aggregation.beta import empty_posterior, fold, mode
from common.codecs import SharedState, get_codec
from common.codecs.fuse import Fuse8
from common.theta import probabilities, quantise
from common.wire import HEADER_BYTES, read_header

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["main", "plot_flips", "plot_round"]

FOLDER = Path(__file__).parents[1] / "docs" / "images"
BEFORE, AFTER, FLIP, MISTAKE, DRAWN = "#8a8a8a", "#1f6fb4", "#d1372c", "#7b3fb0", "#222222"
SIDE, CLIENTS, KAPPA = 64, 10, 0.8


# -- Why so few bits change --------------------------------------------------------------------------------------------


def plot_flips(positions: int = 36, seed: int = 20) -> Path:
    """Two panels: masks drawn with the same uniforms before and after training, and with others."""
    rng = np.random.default_rng(seed)
    theta = quantise(rng.uniform(0.6, 0.97, positions))
    step = rng.normal(0, 0.35, positions)
    local = (1 / (1 + (1 / probabilities(theta) - 1) * np.exp(-step))).astype(np.float32)
    shared, other = (SharedState(theta, seed=seed, round=1, slot=slot) for slot in (0, 1))
    figure, rows = plt.subplots(
        2, 2, figsize=(11, 5.2), height_ratios=(4, 1.25), sharex=True, layout="constrained", squeeze=False
    )
    before = shared.mask()
    for column, drawn in enumerate((shared, other)):
        after = drawn.local_mask(local)
        top, bottom = rows[:, column]
        changed = before != after
        what = "the same u" if column == 0 else "new u"
        top.set_title(f"{what} for the mask after: {changed.sum()} of {positions} bits change", fontsize=11)
        _steps(top, shared, drawn, local, changed)
        _strips(bottom, before, after)
    rows[0, 0].set_ylabel("probability that the bit is 1")
    handles, labels = rows[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return _save(figure, "flips.png")


def _steps(axes: Axes, shared: SharedState, drawn: SharedState, local: NDArray[np.float32], changed: NDArray) -> None:
    """Theta before and after, and the uniforms: a bit is 1 where its uniform is below theta."""
    x = np.arange(shared.d)
    theta = probabilities(shared.theta)
    for start in x[changed]:
        axes.axvspan(start - 0.5, start + 0.5, color=FLIP, alpha=0.13, linewidth=0)
    axes.vlines(x, theta, local, color=AFTER, linewidth=2.5, alpha=0.55)
    axes.scatter(x, theta, s=26, facecolor="white", edgecolor=BEFORE, linewidth=1.5, zorder=3, label="theta before")
    axes.scatter(x, local, s=22, color=AFTER, zorder=3, label="theta after training")
    axes.scatter(x, shared.uniforms / 65536, marker="_", s=70, color=DRAWN, linewidth=1.8, zorder=2, label="u before")
    if drawn is not shared:
        again = drawn.uniforms / 65536
        axes.scatter(x, again, marker="_", s=70, color=MISTAKE, linewidth=1.8, zorder=2, label="u after, if not shared")
    axes.scatter([], [], marker="s", s=60, color=FLIP, alpha=0.3, label="the bit changes")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)


def _strips(axes: Axes, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> None:
    """Both masks and where they differ, a square a bit."""
    rows = [np.where(before, 1, 0), np.where(after, 1, 0), np.where(before != after, 2, 3)]
    axes.imshow(rows, cmap=ListedColormap(["#e4e4e4", "#4d4d4d", FLIP, "white"]), vmin=0, vmax=3, aspect="auto")
    axes.set_yticks(range(3), ["mask before", "mask after", "differ"], fontsize=9)
    axes.set_xticks(np.arange(len(before)) - 0.5, minor=True)
    axes.set_yticks(np.arange(3) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


# -- One round ---------------------------------------------------------------------------------------------------------


def plot_round(seed: int = 7) -> Path:
    """One round of ten clients on 64 x 64 weights, as the images that its arrays are."""
    rng = np.random.default_rng(seed)
    theta = quantise(np.clip(rng.normal(0.93, 0.03, SIDE * SIDE), 0.5, 0.985))
    codec = Fuse8(keep=KAPPA)
    posterior = empty_posterior(SIDE * SIDE)
    for slot in range(CLIENTS):
        shared = SharedState(theta, seed=seed, round=1, slot=slot)
        local = _learnt(theta, rng)
        payload = codec.encode(local, shared)
        received = codec.decode(payload, shared)
        posterior = fold(posterior, received)
        if slot == 0:
            first = (shared, local, payload, received)
    return _draw_round(theta, mode(posterior), *first)


def _learnt(theta: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.float32]:
    """What a client might have learnt: weights on a ring are in its way, and a little noise everywhere."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    ring = np.exp(-(((np.hypot(x, y) - 18) / 4) ** 2)).ravel()
    step = -2.2 * ring + rng.normal(0, 0.08, theta.size)
    return (1 / (1 + (1 / probabilities(theta) - 1) * np.exp(-step))).astype(np.float32)


def _draw_round(
    theta: NDArray[np.uint16],
    after: NDArray[np.uint16],
    shared: SharedState,
    local: NDArray[np.float32],
    payload: bytes,
    received: NDArray[np.bool_],
) -> Path:
    n, codec = read_header(payload)[0].n, get_codec("fuse8")
    assert isinstance(codec, Fuse8)
    picture = np.asarray(Image.open(io.BytesIO(codec.read_png(n, payload[HEADER_BYTES:]))))
    flips, arrived = shared.mask() != shared.local_mask(local), shared.mask() != received
    seen = np.select([arrived & ~flips, arrived & flips], [2, 1], 0)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
    bits = {"cmap": ListedColormap(["#222222", "#f2f2f2"]), "vmin": 0, "vmax": 1}
    panels = [
        ("server", "1  theta goes out", probabilities(theta), {**grey, "vmin": 0.4}),
        ("client", "2  mask drawn: [u < theta]", shared.mask(), bits),
        ("client", "3  theta after training", local, {**grey, "vmin": 0.4}),
        ("client", "4  mask drawn again, same u", shared.local_mask(local), bits),
        ("client", f"5  {flips.sum()} of {SIDE * SIDE:,} bits changed", flips, _colours("#f2f2f2", FLIP)),
        ("wire", f"6  a filter of {n} of them, as PNG:\n{len(payload):,} bytes with header", picture, {"cmap": "gray"}),
        ("server", f"7  read: {(seen == 1).sum()} of them,\n{(seen == 2).sum()} mistakes (violet)", seen,
         _colours("#f2f2f2", FLIP, MISTAKE)),
        ("server", f"8  new theta, of {CLIENTS} clients' masks", probabilities(after), {**grey, "vmin": 0.4}),
    ]  # fmt: skip
    figure, rows = plt.subplots(2, 4, figsize=(11, 6.2))
    figure.subplots_adjust(left=0.03, right=0.97, bottom=0.06, top=0.94, wspace=0.28, hspace=0.36)
    axes = rows.ravel()
    for one, (where, title, values, how) in zip(axes, panels, strict=True):
        image = values if values.ndim == 2 else values.reshape(SIDE, SIDE)
        one.imshow(image, interpolation="nearest", **how)
        one.set_xticks([])
        one.set_yticks([])
        colour = {"server": "#b06f00", "client": AFTER, "wire": DRAWN}[where]
        one.spines[:].set(color=colour, linewidth=2)
        one.set_title(title, fontsize=10)
        one.text(0.5, -0.05, where, transform=one.transAxes, ha="center", va="top", fontsize=9, color=colour)
    for left, right in itertools.pairwise(axes):
        _arrow(figure, left, right)
    return _save(figure, "round.png")


def _colours(*colours: str) -> dict[str, object]:
    return {"cmap": ListedColormap(list(colours)), "vmin": 0, "vmax": len(colours) - 1}


def _arrow(figure: Figure, left: Axes, right: Axes) -> None:
    """From one panel to the next, where they stand in one row."""
    if left.get_subplotspec().rowspan.start != right.get_subplotspec().rowspan.start:
        return
    line = ConnectionPatch((1.04, 0.5), (-0.04, 0.5), "axes fraction", "axes fraction", axesA=left, axesB=right)
    line.set(arrowstyle="-|>", mutation_scale=16, linewidth=1.6, color=BEFORE)
    figure.add_artist(line)


def _save(figure: Figure, name: str) -> Path:
    path = FOLDER / name
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def main() -> None:
    """Draw both."""
    for path in (plot_flips(), plot_round()):
        print(f"wrote {path.relative_to(FOLDER.parents[1])}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
