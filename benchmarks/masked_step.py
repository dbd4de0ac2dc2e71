"""Time and memory of one masked training step of ViT-Tiny with random weights.

    python -m benchmarks.masked_step            # prints JSON; `--out FILE` keeps it

Held is what a step keeps between its forward and its backward pass (the activations and whatever the masks need), peak
the most that torch's CPU allocator holds during the whole step; both beyond what was there before (weights, scores,
Adam's moments). They are read from the allocator's own record (torch.profiler), so they are exact and repeatable; the
time is processor time, the best of several steps in one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.timing import best_of
from common.models.backbone import Backbone, load_backbone


def measure(image_size: int, batch: int, repeats: int) -> dict[str, Any]:
    backbone = load_backbone("vit_tiny_patch16_224", "random", image_size, 5)
    masks = backbone.masks
    masks.load_scores(torch.full((masks.d,), 2.9))
    masks.generator.manual_seed(1)
    with torch.no_grad():
        tokens = backbone.prefix(torch.randn(batch, 3, image_size, image_size))
    target = torch.arange(batch) % 10
    optimiser = torch.optim.Adam(masks.parameters(), lr=0.1, fused=True)

    def forward() -> torch.Tensor:
        return F.cross_entropy(backbone.tail(tokens)[:, :10], target)

    def step() -> None:
        optimiser.zero_grad()
        forward().backward()
        optimiser.step()

    step()
    seconds = best_of(repeats, step, time.process_time)
    held, peak = _memory(backbone, forward)
    return {
        "image size": image_size,
        "batch": batch,
        "masked weights": masks.d,
        "step, ms": round(1000 * seconds, 1),
        "held, MiB": round(held / 2**20, 1),
        "peak, MiB": round(peak / 2**20, 1),
    }


def _memory(backbone: Backbone, forward: Any) -> tuple[int, int]:
    """Bytes held after the forward pass, and at most, beyond what was allocated before."""
    for parameter in backbone.masks.parameters():
        parameter.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = forward()
        with record_function("backward-begins"):
            pass
        loss.backward()
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    begins = next(event["ts"] for event in events if event.get("name") == "backward-begins")
    record = sorted((event["ts"], event["args"]) for event in events if event.get("name") == "[memory]")
    base = record[0][1]["Total Allocated"] - record[0][1]["Bytes"]
    totals = [(ts, args["Total Allocated"] - base) for ts, args in record]
    return [total for ts, total in totals if ts <= begins][-1], max(total for _, total in totals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = [measure(96, 8, args.repeats), measure(96, 32, args.repeats)]
    text = json.dumps({"backbone": "vit_tiny_patch16_224, random weights, last 5 blocks", "steps": figures}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
