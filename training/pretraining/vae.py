"""First and last stage of the sprite foundation: an AutoencoderKL from 64x64x3 pixels to 16x16x4 latents.

    python -m motiondirector sprites pretrain --stage vae --out runs/foundation
    python -m motiondirector sprites pretrain --stage decoder --out runs/foundation   # may run while the UNet trains

It trains on sprites rendered on the fly. The decoder stage continues with a frozen encoder, so that
latents (and a denoiser trained on them) stay valid, and with noise on the latents, so that small errors
of the denoiser still decode to clean edges.

Loss: L1 and L2 on pixels + L1 on their horizontal and vertical differences (edges; such a simple world
needs no perceptual network) + a small KL. Frames are drawn from the whole space of poses, not from
motions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from torch import Tensor, nn

from datasets.sprites.motions import Trajectory
from datasets.sprites.render import draw_background, draw_sprite
from datasets.sprites.world import sample_scene
from training.pretraining.common import Average, Schedule, draws, load_state, log, save_state, to_video

SIZE = 64
VAE_STEPS = 1200
DECODER_STEPS = 1200
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-3
EDGE_WEIGHT = 0.5
LATENT_NOISE = 0.2  # largest standard deviation of noise on unit-variance latents in the decoder stage


def build_vae(seed: int = 0) -> AutoencoderKL:
    """The untrained autoencoder: 4x downsampling, 4 channels, no attention (the world is local).

    With 8x downsampling, 16 channels and the same training time, a fifth of the shapes was lost; here a
    twentieth.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        # One group: a flat image is constant in space, so small groups would normalise its colour away.
        norm_num_groups=1,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    # Residual branches start at zero and resampling starts as the identity, so that colours pass through.
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in vae.modules():
            if isinstance(module, ResnetBlock2D):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Downsample2D | Upsample2D):
                nn.init.dirac_(module.conv.weight)
        # The posterior starts narrow: unit-variance noise would hide the colours.
        latents = vae.config.latent_channels
        vae.quant_conv.weight[latents:] = 0
        vae.quant_conv.bias[latents:] = -5
    return vae


def frame_batch(rng: np.random.Generator, n: int, size: int = SIZE, crowd: int = 6) -> np.ndarray:
    """Render single frames, uint8 [n, H, W, C], each a background with 1 to `crowd` objects in random poses.

    They are crowded on purpose: the autoencoder is local and learns more from edges than from plain
    background.
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


def decoding_error(out_BCHW: Tensor, x_BCHW: Tensor) -> tuple[Tensor, float]:
    """L1 + L2 + EDGE_WEIGHT * L1 of the differences between neighbouring pixels; and the L1 part alone."""
    pixels = (out_BCHW - x_BCHW).abs().mean()
    squares = (out_BCHW - x_BCHW).square().mean()
    edges = sum((torch.diff(out_BCHW, dim=d) - torch.diff(x_BCHW, dim=d)).abs().mean() for d in (2, 3))
    return pixels + squares + EDGE_WEIGHT * edges, pixels.item()


def reconstruction_loss(
    vae: AutoencoderKL, x_BCHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict]:
    """`decoding_error` of a posterior sample + KL_WEIGHT * KL per latent element; and its parts."""
    posterior = vae.encode(x_BCHW).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(x_BCHW.device)
    out = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    error, pixels = decoding_error(out, x_BCHW)
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return error + KL_WEIGHT * kl, {"pixels": pixels, "kl": kl.item()}


def decoder_loss(vae: AutoencoderKL, x_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, dict]:
    """`decoding_error` from the frozen encoder's latents with noise of random strength up to LATENT_NOISE."""
    with torch.no_grad():
        latents = vae.encode(x_BCHW).latent_dist.mean
    noise = torch.randn(latents.shape, generator=generator)
    strength = LATENT_NOISE * torch.rand((len(latents), 1, 1, 1), generator=generator)
    out = vae.decode(latents + (strength * noise).to(x_BCHW.device)).sample.float()
    error, pixels = decoding_error(out, x_BCHW)
    return error, {"pixels": pixels}


@torch.no_grad()
def standardised(vae: AutoencoderKL, device: str, seed: int = 0) -> AutoencoderKL:
    """A copy with latents of mean 0 and variance 1 per channel (over 256 frames) and the same output.

    The affine change is merged into the 1x1 convolutions before and after the latents; `scaling_factor`
    is then 1.
    """
    frames = to_video(frame_batch(np.random.default_rng(seed), 256, crowd=1), device)
    latents = vae.encode(frames).latent_dist.mean
    mean_C, std_C = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    copy = deepcopy(vae)
    n = len(mean_C)
    into, out_of = copy.quant_conv, copy.post_quant_conv
    into.weight[:n] /= std_C[:, None, None, None]
    into.bias[:n] = (into.bias[:n] - mean_C) / std_C
    into.bias[n:] -= 2 * std_C.log()  # the posterior's log-variance
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean_C
    out_of.weight *= std_C[None, :, None, None]
    copy.register_to_config(scaling_factor=1.0)
    return copy


def train_vae(
    out: Path,
    *,
    steps: int = VAE_STEPS,
    decoder_only: bool = False,
    batch: int = 16,
    seed: int = 0,
    device: str = "cpu",
    every: int = 50,
    stop: int | None = None,
    resume: bool = True,
    progress: Callable[[int, dict], None] = lambda step, record: None,
) -> AutoencoderKL:
    """Train to `steps`; save a state and the averaged, standardised `out/vae` every `every` steps.

    `decoder_only` continues training the decoder of `out/vae` with its encoder frozen. `resume`
    continues from an existing state; `stop` ends this part of the run early. Returns the autoencoder of
    `out/vae`, in eval mode.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = "decoder" if decoder_only else "vae"
    state = out / f"{name}_state.pt"
    vae = AutoencoderKL.from_pretrained(out / "vae") if decoder_only else build_vae(seed)
    vae = vae.to(device).to(memory_format=torch.channels_last)
    trained = nn.ModuleList([vae.decoder, vae.post_quant_conv]) if decoder_only else vae
    loss_of = decoder_loss if decoder_only else reconstruction_loss
    optimizer = torch.optim.AdamW(
        trained.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4
    )
    average, schedule = Average([trained], 0.995), Schedule(LEARNING_RATE, steps, warmup=30, decay=0.35)
    first = load_state(state, {name: trained}, optimizer, average, device) if resume and state.exists() else 0
    started = time.monotonic()
    for step in range(first, min(steps, stop or steps)):
        rng, generator = draws(seed + decoder_only, step)
        x = to_video(frame_batch(rng, batch), device).to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        # on a CPU, bf16 gains nothing for such narrow convolutions
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            loss, parts = loss_of(vae, x, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        if (step + 1) % every == 0 or step + 1 == steps:
            record = {"stage": name, "step": step + 1, "loss": loss.item(), **parts}
            record["s"] = time.monotonic() - started
            log(out, record)
            progress(step + 1, record)
            save_state(state, step + 1, {name: trained}, optimizer, average)
            average.swap()
            released(vae, decoder_only, device).save_pretrained(out / "vae")
            average.swap()
    average.swap()
    return released(vae, decoder_only, device).eval()


def released(vae: AutoencoderKL, decoder_only: bool, device: str) -> AutoencoderKL:
    """The autoencoder to write: standardised, except in the decoder stage, where it already is."""
    return vae if decoder_only else standardised(vae, device)
