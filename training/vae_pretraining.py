"""First stage of the sprite foundation: an AutoencoderKL, 64x64x3 pixels to 8x8x8 latents, on sprites rendered on the fly.

    python -m motiondirector sprites pretrain --stage vae --out runs/foundation

Loss: L1 and L2 on pixels + L1 on their horizontal and vertical differences (edges; no perceptual network is needed in so
simple a world) + a small KL. Frames are drawn from the whole space of poses, not from motions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from torch import Tensor, nn

from datasets.sprites.motions import Trajectory
from datasets.sprites.render import draw_background, draw_sprite
from datasets.sprites.world import sample_scene
from training.pretraining import Average, Schedule, draws, load_state, log, save_state, to_video

SIZE = 64
VAE_STEPS = 2000
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-3
EDGE_WEIGHT = 0.5


def build_vae(seed: int = 0) -> AutoencoderKL:
    """The untrained autoencoder: 8 times down, 8 channels, no attention (the world is local)."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        # Few groups: a flat image is constant in space, so a group of two channels would normalise its colour away.
        norm_num_groups=1,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    # Residual branches begin silent and resampling begins as the identity: colours then pass straight through.
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)
        for module in vae.modules():
            if isinstance(module, ResnetBlock2D):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Downsample2D | Upsample2D):
                nn.init.dirac_(module.conv.weight)
        # ... and the posterior begins narrow: noise of unit variance would drown them.
        latents = vae.config.latent_channels
        vae.quant_conv.weight[latents:] = 0
        vae.quant_conv.bias[latents:] = -5
    return vae


def frame_batch(rng: np.random.Generator, n: int, size: int = SIZE, crowd: int = 6) -> np.ndarray:
    """uint8 [n, H, W, C]: single frames, each a background with 1 to `crowd` objects in random poses.

    Crowded on purpose: the autoencoder is local, and an edge teaches it more than a stretch of background.
    """
    frames = []
    for _ in range(n):
        count = int(rng.integers(1, crowd + 1))
        scenes = [sample_scene(rng) for _ in range(count)]
        camera = rng.uniform(-0.25, 0.25, 2) * (rng.random() < 0.3)
        zoom = float(np.exp(rng.uniform(-0.3, 0.4))) if rng.random() < 0.2 else 1.0
        still = np.zeros(1)
        behind = Trajectory(still, still, still, still, still + camera[0], still + camera[1], still + zoom)
        canvas = draw_background(scenes[0].background, behind, size)
        for scene in scenes:
            x, y = rng.uniform(0.02, 0.98, 2)
            scale = np.exp(rng.uniform(-0.4, 0.45))
            angle = rng.random() if rng.random() < 0.3 else 0.0
            pose = Trajectory(still + x, still + y, still + scale, still + angle, still, still, still + 1)
            draw_sprite(canvas, scene.sprite, pose)
        frames.append(np.clip(canvas[0] + 0.5, 0, 255).astype(np.uint8))
    return np.stack(frames)


def reconstruction_loss(
    vae: AutoencoderKL, x_BCHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict]:
    """L1 + L2 + EDGE_WEIGHT * L1 of differences + KL_WEIGHT * KL per latent element, and its parts."""
    posterior = vae.encode(x_BCHW).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(x_BCHW.device)
    out = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    pixels = (out - x_BCHW).abs().mean()
    squares = (out - x_BCHW).square().mean()
    edges = sum((torch.diff(out, dim=d) - torch.diff(x_BCHW, dim=d)).abs().mean() for d in (2, 3))
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return pixels + squares + EDGE_WEIGHT * edges + KL_WEIGHT * kl, {"pixels": pixels.item(), "kl": kl.item()}


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, device: str, seed: int = 0) -> float:
    """1 / standard deviation of the latents of 256 frames: what makes them unit variance."""
    frames = to_video(frame_batch(np.random.default_rng(seed), 256, crowd=1), device)
    return float(1 / vae.encode(frames).latent_dist.mean.std())


def train_vae(
    out: Path,
    *,
    steps: int = VAE_STEPS,
    batch: int = 16,
    seed: int = 0,
    device: str = "cpu",
    every: int = 50,
    stop: int | None = None,
    resume: bool = True,
    progress: Callable[[int, dict], None] = lambda step, record: None,
) -> AutoencoderKL:
    """Train to `steps`, saving `out/vae_state.pt` every `every` steps and the averaged weights to `out/vae`.

    With `resume` an existing state is continued; `stop` ends this part of the run early. Returns the averaged autoencoder in eval mode.
    """
    out.mkdir(parents=True, exist_ok=True)
    vae = build_vae(seed).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    average, schedule, state = (
        Average([vae], 0.995),
        Schedule(LEARNING_RATE, steps, warmup=30),
        out / "vae_state.pt",
    )
    first = load_state(state, {"vae": vae}, optimizer, average, device) if resume and state.exists() else 0
    started = time.monotonic()
    for step in range(first, min(steps, stop or steps)):
        rng, generator = draws(seed, step)
        x = to_video(frame_batch(rng, batch), device).to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        # bf16 gains nothing for so narrow convolutions on a CPU
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            loss, parts = reconstruction_loss(vae, x, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        if (step + 1) % every == 0 or step + 1 == steps:
            record = {
                "stage": "vae",
                "step": step + 1,
                "loss": loss.item(),
                **parts,
                "s": time.monotonic() - started,
            }
            log(out, record)
            progress(step + 1, record)
            save_state(state, step + 1, {"vae": vae}, optimizer, average)
            average.swap()
            vae.register_to_config(scaling_factor=latent_scale(vae, device))
            vae.save_pretrained(out / "vae")
            average.swap()
    average.swap()
    return vae.eval()
