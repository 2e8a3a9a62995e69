"""Tiny LTX-Video checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from models.tiny.recipes import fill_zero_layers, recipe, save


@recipe("ltx")
def write_tiny_ltx(folder: Path, *, seed: int = 0) -> Path:
    """Write an `LTXPipeline` folder: 64x64 pixels, 9 frames as 2 latent frames of 2x2 (32x 8x, as in the real VAE)."""
    torch.manual_seed(seed)
    text = T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_causal=False,
    )
    with torch.no_grad():
        vae.latents_mean.normal_(std=0.1)
        vae.latents_std.uniform_(0.5, 1.5)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    fill_zero_layers(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(  # as in Lightricks/LTX-Video
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    pipeline = LTXPipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=T5EncoderModel(text).eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer,
    )
    generation = {
        "frames": 9,
        "height": 64,
        "width": 64,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})
