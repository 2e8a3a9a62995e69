"""A tiny Mochi checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from models.tiny.recipes import fill_zero_layers, recipe, save


@recipe("mochi")
def write_tiny_mochi(folder: Path, *, seed: int = 0) -> Path:
    """Write a `MochiPipeline` folder: 32x32 pixels, 7 frames as 2 latent frames (8x 6x, as in the real VAE)."""
    torch.manual_seed(seed)
    text = T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,  # which the stock pipeline takes for granted
        text_embed_dim=32,
        time_embed_dim=16,
    )
    fill_zero_layers(transformer)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    pipeline = MochiPipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=T5EncoderModel(text).eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        force_zeros_for_empty_prompt=True,
    )
    generation = {
        "frames": 7,
        "height": 32,
        "width": 32,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})
