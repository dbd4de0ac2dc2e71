"""Train the embedded backbone on rendered printed letters (about 25 minutes on two cores).

    python -m deltamask_server.tools.pretrain_letters --out common/models/letters_vit.safetensors

The images are drawn from the fonts that Matplotlib ships, one glyph a font and letter, and distorted anew in every
step: affine and elastic deformation, stroke thickness, blur, low resolution, noise. Everything random comes from
``--seed``. Weights are stored as float16 (the loader widens them), which halves the file; the accuracy printed at the
end is that of the stored weights.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

from common.models.letters import LETTERS, MEAN, STD, build_letters_vit

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
GLYPH = 64


def render_glyphs() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw every letter in every font: images ``(n, 1, 64, 64)`` in [0, 1], ink = 1, and labels ``(n,)``."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images, labels = [], []
    for font_name in FONTS:
        font = ImageFont.truetype(str(folder / f"{font_name}.ttf"), 48)
        for label, letter in enumerate(LETTERS):
            image = Image.new("L", (GLYPH, GLYPH), 0)
            left, top, right, bottom = font.getbbox(letter)
            origin = ((GLYPH - right - left) / 2, (GLYPH - bottom - top) / 2)
            ImageDraw.Draw(image).text(origin, letter, fill=255, font=font)
            images.append(np.asarray(image, dtype=np.float32) / 255)
            labels.append(label)
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels)


def distort(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Distort glyphs ``(n, 1, 64, 64)`` into training images ``(n, 1, 32, 32)`` in [0, 1]."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng)

    angle, shear = uniform(-0.35, 0.35, n), uniform(-0.35, 0.35, n)
    # Affine maps read backwards: a scale below 1 enlarges the glyph.
    scale_x, scale_y = uniform(0.55, 1.15, n), uniform(0.6, 1.1, n)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos * scale_x, (-sin + shear * cos) * scale_x
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * scale_y, (cos + shear * sin) * scale_y
    matrix[:, :, 2] = uniform(-0.15, 0.15, n, 2)
    grid = F.affine_grid(matrix, [n, 1, 32, 32], align_corners=False)
    # Elastic deformation: a coarse random field, smoothly enlarged.
    field = torch.randn(n, 2, 5, 5, generator=rng) * uniform(0, 0.11, n, 1, 1, 1)
    grid = grid + F.interpolate(field, size=(32, 32), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)

    dilated = F.max_pool2d(images, 5, stride=1, padding=2)
    eroded = -F.max_pool2d(-images, 3, stride=1, padding=1)
    weight = uniform(-0.6, 1.0, n, 1, 1, 1)
    images = torch.where(
        weight > 0, images.lerp(dilated, weight.clamp(min=0)), images.lerp(eroded, -weight.clamp(max=0))
    )
    images = F.avg_pool2d(images, 3, stride=1, padding=1)
    out = F.grid_sample(images, grid, align_corners=False)

    # A third of the images pass through a low resolution, as scans and small sensors do.
    for size in (8, 12):
        low = F.interpolate(
            F.interpolate(out, size=(size, size), mode="area"), size=(32, 32), mode="bicubic", align_corners=False
        )
        out = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.25, low, out)
    contrast = uniform(0.6, 1.2, n, 1, 1, 1)
    noise = torch.randn(out.shape, generator=rng) * uniform(0, 0.08, n, 1, 1, 1)
    return (out * contrast + noise).clamp(0, 1)


def train(steps: int, batch: int, seed: int, threads: int) -> dict[str, torch.Tensor]:
    """Train and return the float16 state dict."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)  # timm initialises from torch's global generator
    rng = torch.Generator().manual_seed(seed)
    glyphs, labels = render_glyphs()
    model = build_letters_vit()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min(1.0, (t + 1) / 100) * 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    for step in range(steps):
        index = torch.randint(len(glyphs), (batch,), generator=rng)
        images = (distort(glyphs[index], rng) - MEAN) / STD
        loss = F.cross_entropy(model(images), labels[index], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}/{steps}  loss {loss.item():.3f}", flush=True)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    model.eval()
    with torch.no_grad():
        index = torch.randint(len(glyphs), (4000,), generator=rng)
        right = (model((distort(glyphs[index], rng) - MEAN) / STD).argmax(1) == labels[index]).float().mean()
    print(
        f"accuracy on 4,000 freshly distorted letters: {right:.3f} "
        "(52 classes; capitals such as O, S, X look like their small letters)"
    )
    return state


def main() -> None:
    """Parse the command line, train, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("common/models/letters_vit.safetensors"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    state = train(args.steps, args.batch, args.seed, args.threads)
    metadata = {
        "trained_by": "deltamask_server/tools/pretrain_letters.py",
        "steps": str(args.steps),
        "batch": str(args.batch),
        "seed": str(args.seed),
    }
    save_file(state, args.out, metadata)
    print(f"wrote {args.out} ({args.out.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
