"""A diffusion model from nothing: noise goes in, flowers come out.

    python examples/walkthrough.py --out runs/walkthrough        # about four minutes on two cores

All of it is in this file; only the drawing of the training pictures is borrowed. docs/walkthrough.md tells the story.
Names: x0 a picture, eps noise, x_t their mixture, t in [0, 1] the time, with the picture at 0 and pure noise at 1.
"""

import argparse
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from kakusan.data import flowers


# ---- 1. The forward process: a picture drowns
def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine schedule: alpha(t) = cos(pi t / 2), sigma(t) = sin(pi t / 2). t (B,), both results (B, 1, 1, 1)."""
    angle = t.view(-1, 1, 1, 1) * (math.pi / 2)
    return angle.cos(), angle.sin()  # alpha^2 + sigma^2 = 1


def add_noise(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha(t) x0 + sigma(t) eps: one jump to any t (Ho et al. 2020, eq. 4)."""
    alpha, sigma = alpha_sigma(t)
    return alpha * x0 + sigma * eps


def target(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """v = alpha eps - sigma x0, what the network learns to say (Salimans & Ho 2022, appendix D)."""
    alpha, sigma = alpha_sigma(t)
    return alpha * eps - sigma * x0


# ---- 2. The network: v = model(x_t, t, label)
def time_features(t: Tensor, width: int) -> Tensor:
    """[cos(w t), sin(w t)] for frequencies w from 1 to 1000: the noise level as a vector. (B,) -> (B, width)."""
    angles = t[:, None] * torch.logspace(0, 3, width // 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """h = conv(silu(norm(x))), then x + conv(silu(norm(h) (1 + scale) + shift)): noise level and class steer h."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # at first the block only passes x on, and learning starts calmly

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class Attention(nn.Module):
    """x + softmax(q k^T / sqrt(d)) v over all pixels: a petal on the left knows of its sister on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)  # each (B, pixels, channels)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x))


class UNet(nn.Module):
    """Down to a quarter of the size and up again; each level on the way up also sees its twin on the way down."""

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.width, self.null, wide = width, num_classes, 4 * width
        self.time = nn.Sequential(nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.label = nn.Embedding(num_classes + 1, wide)  # the last row means "no class"
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        w1, w2, w3 = width, 2 * width, 4 * width
        self.down = nn.ModuleList(ResidualBlock(i, o, wide) for i, o in ((w1, w1), (w1, w2), (w2, w3)))
        self.middle, self.attention = ResidualBlock(w3, w3, wide), Attention(w3)
        self.up = nn.ModuleList(ResidualBlock(i, o, wide) for i, o in ((w3 + w3, w3), (w3 + w2, w2), (w2 + w1, w1)))
        self.leave = nn.Sequential(nn.GroupNorm(8, w1), nn.SiLU(), nn.Conv2d(w1, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time(time_features(t, self.width)) + self.label(label))
        h, twins = self.enter(x), []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, embedding)
            twins.append(h)
        h = self.attention(self.middle(h, embedding))
        for block in self.up:
            h = block(torch.cat([F.interpolate(h, twins[-1].shape[2:]), twins.pop()], dim=1), embedding)
        return self.leave(h)


# ---- 3. The data: pictures in [-1, 1]
SPECIES = ("daisy", "sunflower", "tulip", "poppy", "lotus", "iris")


def load_pictures(num: int, size: int) -> tuple[Tensor, Tensor]:
    """`num` pictures drawn by code, classes in turn: x0 (num, 3, size, size) in [-1, 1] and labels (num,)."""
    label = torch.arange(num) % len(SPECIES)
    factors = [flowers.sample_factors(0, index, SPECIES[kind]) for index, kind in enumerate(label.tolist())]
    stored = torch.from_numpy(flowers.draw_batch(factors, size))  # bytes from 0 to 255
    return stored.permute(0, 3, 1, 2).float() / 127.5 - 1, label


# ---- 4. Training: guess v, be corrected, repeat
def train(model: UNet, x0: Tensor, label: Tensor, steps: int, batch: int = 64) -> Iterator[tuple[int, float, UNet]]:
    """Minimise E |v - model(x_t, t, label)|^2 over pictures, noise, and t even in [0, 1]. Yields (step, loss, ema)."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters())
    ema = deepcopy(model).requires_grad_(False)  # a running mean of the weights draws better than the last weights
    for step in range(1, steps + 1):
        index = torch.randint(len(x0), (batch,), generator=generator)
        hidden = torch.rand(batch, generator=generator) < 0.1  # to learn flowers in general too: guidance needs it
        known = label[index].masked_fill(hidden, model.null)
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch  # one from each slice of [0, 1]
        eps = torch.randn(x0[index].shape, generator=generator)
        loss = F.mse_loss(model(add_noise(x0[index], eps, t), t, known), target(x0[index], eps, t))
        rate = min(1, step / 50) * math.cos(math.pi / 2 * step / steps) ** 2  # up quickly, down slowly
        optimizer.param_groups[0]["lr"] = 2e-3 * rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for mean, new in zip(ema.parameters(), model.parameters(), strict=True):
            mean.lerp_(new.detach(), max(0.01, 10 / (step + 10)))  # a little of the new weights, most of the old mean
        yield step, loss.item(), ema


# ---- 5. Sampling: from noise to a picture
@torch.no_grad()
def sample(model: UNet, eps: Tensor, label: Tensor, steps: int = 30, guidance: float = 2.0) -> Iterator[list[Tensor]]:
    """DDIM (Song et al. 2021): read x0 and eps off x_t, mix the same two anew: x_s = alpha(s) x0 + sigma(s) eps, s < t.

    Yields [x_t, predicted x0]. `guidance` > 1 goes further where the class changes the answer (Ho & Salimans 2022).
    """
    x, both = eps, torch.cat([label, torch.full_like(label, model.null)])
    for t, s in torch.linspace(1, 0, steps + 1).unfold(0, 2, 1):
        v_class, v_null = model(torch.cat([x, x]), t.expand(len(both)), both).chunk(2)
        v = v_null + guidance * (v_class - v_null)
        alpha, sigma = alpha_sigma(t.view(1))
        x0 = (alpha * x - sigma * v).clamp(-1, 1)  # x_t and v solved for x0; colours end at -1 and 1
        yield [x, x0]
        x = add_noise(x0, (x - alpha * x0) / sigma, s.view(1))
    yield [x, x]


# ---- 6. Pictures of all this
def save_grid(rows: list[Tensor], path: Path, zoom: int = 5) -> None:
    """Write rows of pictures, each (n, 3, size, size) in [-1, 1], as one PNG with `zoom` screen pixels to a pixel."""
    grid = torch.cat([torch.cat(list(F.pad(row, (0, 1, 0, 1), value=1.0)), dim=2) for row in rows], dim=1)
    array = (grid.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).resize((zoom * array.shape[1], zoom * array.shape[0]), Image.Resampling.NEAREST).save(path)


def main(arguments: list[str] | None = None) -> list[float]:
    """Train, and write what happens as pictures. Returns the loss of every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/walkthrough"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--size", type=int, default=16, help="pixels, a multiple of 4")
    parser.add_argument("--pictures", type=int, default=6000, help="how many training pictures")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    x0, label = load_pictures(options.pictures, options.size)
    torch.manual_seed(0)  # for the first weights of the network
    model = UNet(len(SPECIES))
    asked = torch.arange(len(SPECIES)).repeat_interleave(8)  # eight pictures of each class
    eps = torch.randn(len(asked), *x0.shape[1:], generator=torch.Generator().manual_seed(1))
    drowning = [add_noise(x0[k : k + 1], eps[:1], torch.linspace(0, 1, 11)) for k in range(3)]
    save_grid(drowning, options.out / "forward.png")
    losses, rows, moments = [], [], {options.steps // k for k in (32, 16, 8, 4, 2, 1)}
    for step, loss, ema in train(model, x0, label, options.steps):
        losses.append(loss)
        if step % 50 == 0:
            print(f"step {step:5d}  loss {sum(losses[-50:]) / 50:.4f}", flush=True)
        if step in moments:
            rows.append(list(sample(ema, eps[::4], asked[::4]))[-1][0])  # the same noise every time
    save_grid(rows, options.out / "training.png")
    path = list(sample(ema, eps, asked))
    save_grid(list(path[-1][0].split(8)), options.out / "samples.png")
    rising = [torch.stack([pair[k][n] for pair in path[::3]]) for n in (0, 24, 40) for k in (0, 1)]
    save_grid(rising, options.out / "reverse.png")
    return losses


if __name__ == "__main__":
    main()
