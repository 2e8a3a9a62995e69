"""Tiny Wan checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import (
    AutoencoderKLWan,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from models.tiny.recipes import fill_zero_layers, recipe, save


def _tiny_wan_transformer(
    in_channels: int = 16, out_channels: int = 16, **more: Any
) -> WanTransformer3DModel:
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=out_channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=32,
        **more,
    )
    fill_zero_layers(transformer)
    return transformer


@recipe("wan")
def write_tiny_wan(folder: Path, *, seed: int = 0, experts: bool = False, five_b: bool = False) -> Path:
    """Write a `WanPipeline` folder: 32x32 pixels, 5 frames as 2 latent frames (as in the real VAE).

    Args:
        experts: with a second transformer for low noise, as Wan 2.2 14B.
        five_b: with a VAE of 16x and a timestep for each token, as Wan 2.2 5B; 64x64 pixels.
    """
    torch.manual_seed(seed)
    tokenizer = ByT5Tokenizer()
    text = UMT5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    channels, side = (48, 64) if five_b else (16, 32)
    wide: dict[str, Any] = {
        "decoder_base_dim": 8,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.1] * 48,
        "latents_std": [1.5] * 48,
    }
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        **(wide if five_b else {}),
    )
    transformers = [_tiny_wan_transformer(channels, channels) for _ in range(2 if experts else 1)]
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text).eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformers[0],
        transformer_2=transformers[1] if experts else None,
        boundary_ratio=0.875 if experts else None,
        expand_timesteps=five_b,
    )
    generation = {
        "frames": 5,
        "height": side,
        "width": side,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})


@recipe("wan22")
def write_tiny_wan22(folder: Path, *, seed: int = 0) -> Path:
    """Write a `WanPipeline` folder with two experts."""
    return write_tiny_wan(folder, seed=seed, experts=True)


@recipe("wan22-5b")
def write_tiny_wan22_5b(folder: Path, *, seed: int = 0) -> Path:
    """Write a `WanPipeline` folder like Wan 2.2 5B."""
    return write_tiny_wan(folder, seed=seed, five_b=True)


@recipe("wan-image")
def write_tiny_wan_image(folder: Path, *, seed: int = 0, experts: bool = True) -> Path:
    """Write a `WanImageToVideoPipeline` folder, by default with two experts as 2.2.

    Args:
        experts: False: one transformer that also reads the image through CLIP, as 2.1.
    """
    made = WanPipeline.from_pretrained(write_tiny_wan(folder / "text", seed=seed))
    clip: dict[str, Any] = {} if experts else {"image_dim": 16, "added_kv_proj_dim": 32}
    transformers = [_tiny_wan_transformer(36, **clip) for _ in range(2 if experts else 1)]
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    pipeline = WanImageToVideoPipeline(
        tokenizer=made.tokenizer,
        text_encoder=made.text_encoder,
        vae=made.vae,
        scheduler=made.scheduler,
        image_encoder=None if experts else CLIPVisionModel(vision).eval(),
        image_processor=None
        if experts
        else CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformer=transformers[0],
        transformer_2=transformers[1] if experts else None,
        boundary_ratio=0.9 if experts else None,
    )
    recommended = yaml.safe_load((folder / "text" / "recommended.yaml").read_text())
    shutil.rmtree(folder / "text")
    return save(pipeline, folder, recommended)


@recipe("wan-image-2.1")
def write_tiny_wan_image_21(folder: Path, *, seed: int = 0) -> Path:
    """Write a `WanImageToVideoPipeline` folder as 2.1."""
    return write_tiny_wan_image(folder, seed=seed, experts=False)


@recipe("skyreels")
def write_tiny_skyreels(folder: Path, *, seed: int = 0) -> Path:
    """Write a `SkyReelsV2DiffusionForcingPipeline` folder: Wan's parts, and a transformer that knows the frame rate."""
    made = WanPipeline.from_pretrained(write_tiny_wan(folder / "wan", seed=seed))
    recommended = yaml.safe_load((folder / "wan" / "recommended.yaml").read_text())
    shutil.rmtree(folder / "wan")
    transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        rope_max_seq_len=32,
        inject_sample_info=True,
    )
    fill_zero_layers(transformer)
    pipeline = SkyReelsV2DiffusionForcingPipeline(
        tokenizer=made.tokenizer,
        text_encoder=made.text_encoder,
        vae=made.vae,
        scheduler=made.scheduler,
        transformer=transformer,
    )
    return save(pipeline, folder, recommended)
