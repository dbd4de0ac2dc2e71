"""How fast one local epoch is, and what memory it takes: masked training with its cached prefix, beside other ways.

    python -m benchmarks.training                                        # ViT-Tiny at 96 px, one thread
    python -m benchmarks.training --device cuda --model vit_base_patch32_clip_224 --image-size 224 --batch 64

Four ways to train the same network for an epoch, side by side in one run:

- `masked, cached`: as a client of DeltaMask does from its second epoch on, from cached activations;
- `masked, no cache`: the same with `activations = "none"`;
- `full fine-tuning`: every weight of the network and its head, in plain PyTorch, same optimiser and batches;
- `LoRA`: peft, rank 8 on every Linear of the same blocks (`pip install .[bench]`, left out where it is missing).

Weights and images are random: nothing here depends on their values. Times are the best of several epochs, the four
taking turns, since machines are noisy. Memory is what a process of its own grows by, from before the network is built;
on a GPU, what torch has allocated at most. Figures go to benchmarks/results/training.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F

from common.models.activations import Activations
from common.models.backbone import load_backbone
from common.models.heads import Head
from common.models.input_spec import InputSpec
from common.models.preprocess import preprocess
from common.theta import quantise
from deltamask_client.epochs import Recipe
from deltamask_client.methods.deltamask.training import train_masks
from deltamask_client.objective import adam

RESULT = Path(__file__).parent / "results" / "training.json"
CLASSES, BLOCKS, RANK = 10, 5, 8
SIZE = 32
"""Side of the raw images."""

Epoch = Callable[[], Any]


def masked(args: argparse.Namespace, keep: str) -> Epoch:
    """One local epoch of DeltaMask."""
    backbone = load_backbone(args.model, "random", args.image_size, BLOCKS, args.device)
    images, labels = data(args.images)
    precision = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    activations = Activations(
        backbone,
        images,
        keep="none" if keep == "none" else "disk",
        folder=Path(args.cache),
        batch_size=args.batch,
        precision=precision,
    )
    weight = np.random.default_rng(0).standard_normal((CLASSES, backbone.features)).astype(np.float32)
    head, theta = Head(weight, np.zeros(CLASSES, np.float32)), np.full(backbone.masks.d, quantise(0.95))
    recipe = Recipe(1, args.batch, adam(0.1), precision=precision)
    return lambda: train_masks(backbone, head, activations, labels, theta, recipe, seed=1)


def whole(args: argparse.Namespace, model: torch.nn.Module) -> Epoch:
    """One epoch of whatever has a gradient in a plain network."""
    images, labels = data(args.images)
    spec = InputSpec(3, args.image_size, (0.5,) * 3, (0.5,) * 3)
    targets = torch.from_numpy(labels).to(args.device)
    model.to(args.device).eval()  # no dropout, as in masked training
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def epoch() -> None:
        for start in range(0, len(labels), args.batch):
            step = slice(start, start + args.batch)
            with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.device.startswith("cuda")):
                logits = model(preprocess(images[step], spec).to(args.device))
            loss = F.cross_entropy(logits.float(), targets[step])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return epoch


def full(args: argparse.Namespace) -> Epoch:
    """Full fine-tuning."""
    return whole(args, timm.create_model(args.model, num_classes=CLASSES, img_size=args.image_size))


def lora(args: argparse.Namespace) -> Epoch:
    """LoRA by peft, on the Linear layers of the blocks that DeltaMask masks."""
    from peft import LoraConfig, get_peft_model

    model = timm.create_model(args.model, num_classes=CLASSES, img_size=args.image_size)
    first = len(model.blocks) - BLOCKS
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("blocks.") and int(name.split(".")[1]) >= first
    ]
    return whole(args, get_peft_model(model, LoraConfig(r=RANK, target_modules=names, modules_to_save=["head"])))


WAYS: dict[str, Callable[[argparse.Namespace], Epoch]] = {
    "masked, cached": lambda args: masked(args, "disk"),
    "masked, no cache": lambda args: masked(args, "none"),
    "full fine-tuning": full,
    "LoRA": lora,
}


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of nothing."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8), rng.integers(0, CLASSES, n)


def ways() -> list[str]:
    """Those that this environment can run."""
    return [way for way in WAYS if way != "LoRA" or importlib.util.find_spec("peft")]


def speeds(args: argparse.Namespace) -> dict[str, float]:
    """Images a second: best of several epochs, the ways taking turns."""
    epochs = {way: WAYS[way](args) for way in ways()}
    best = dict.fromkeys(epochs, float("inf"))
    for turn in range(args.repeats + 1):
        for way, epoch in epochs.items():
            begun = time.perf_counter()
            epoch()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:  # the first fills caches and compiles
                best[way] = min(best[way], time.perf_counter() - begun)
    return {way: args.images / seconds for way, seconds in best.items()}


def memory(args: argparse.Namespace, way: str) -> float:
    """Peak MiB of one way in a process of its own."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in vars(args).items() if key not in ("out", "way")]
    command = [sys.executable, "-m", "benchmarks.training", f"--way={way}", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return float(done.stdout)


def measure_memory(args: argparse.Namespace) -> float:
    """The same, in that process; the activations are on disk by now, as they are from the second round on."""
    if args.way == "LoRA":
        import peft  # noqa: F401 - its own size is not the training's
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    epoch = WAYS[args.way](args)
    epoch(), epoch()
    if args.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{field}:")[1].split()[0])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Speed and memory of one local epoch.")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="a timm Vision Transformer")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", default="")
    parser.add_argument("--way", default="", choices=["", *WAYS], help="print the peak memory of one way, and end")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.way:
        print(measure_memory(args))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.cache = args.cache or folder
        rates, peaks = speeds(args), {way: memory(args, way) for way in ways()}
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{platform.machine()}, 1 thread"
    figures = {
        "model": args.model,
        "image size": args.image_size,
        "batch": args.batch,
        "device": device,
        "ways": {
            way: {
                "images a second": round(rates[way], 1),
                "masked, cached is so many times as fast": round(rates["masked, cached"] / rates[way], 2),
                "peak MiB": round(peaks[way], 1),
            }
            for way in rates
        },
    }
    print(json.dumps(figures, indent=1))
    kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    kept[f"{args.model}, {args.device}"] = figures
    args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
