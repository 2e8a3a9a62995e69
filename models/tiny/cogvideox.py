"""Tiny CogVideoX checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from models.tiny.recipes import fill_zero_layers, recipe, save


def _cogvideox(folder: Path, scheduler: Any, transformer: dict[str, Any], seed: int) -> Path:
    torch.manual_seed(seed)
    text = T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=8
    )
    denoiser = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=8,
        time_embed_dim=16,
        text_embed_dim=32,
        num_layers=2,
        sample_height=4,
        sample_width=4,
        sample_frames=9,
        max_text_seq_length=226,  # which the stock pipeline takes by default
        **transformer,
    )
    fill_zero_layers(denoiser)
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    pipeline = CogVideoXPipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=T5EncoderModel(text).eval(),
        vae=vae.eval(),
        transformer=denoiser,
        scheduler=scheduler(
            **beta, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
    )
    generation = {
        "frames": 9,
        "height": 32,
        "width": 32,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})


@recipe("cogvideox")
def write_tiny_cogvideox(folder: Path, *, seed: int = 0) -> Path:
    """Write a `CogVideoXPipeline` folder like 2b: 32x32 pixels, 9 frames as 3 latent frames (as in the real VAE)."""
    return _cogvideox(folder, CogVideoXDDIMScheduler, {}, seed)


@recipe("cogvideox-1.5")
def write_tiny_cogvideox_1_5(folder: Path, *, seed: int = 0) -> Path:
    """The same like 1.5: rotary embeddings, two latent frames in a token, the stochastic solver of 5b."""
    return _cogvideox(
        folder,
        CogVideoXDPMScheduler,
        {"patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True},
        seed,
    )
