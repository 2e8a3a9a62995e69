"""Tiny checkpoints with UNets over frames: ModelScope and ZeroScope, AnimateDiff."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.foundations.unets.combine import animatediff_ddim
from models.tiny.recipes import fill_zero_layers, recipe, save
from models.tiny.text import byte_clip_tokenizer


def stable_diffusion_ddim(prediction_type: str = "epsilon") -> DDIMScheduler:
    """The scheduler of Stable Diffusion, which ModelScope and ZeroScope also use."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def parts_of_stable_diffusion() -> tuple[CLIPTokenizer, CLIPTextConfig, AutoencoderKL]:
    """Parts of a tiny Stable Diffusion: 8 x 8 pixels per latent, as in the real one."""
    tokenizer = byte_clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    return tokenizer, text, vae.eval()


@recipe("unet3d")
def write_tiny_unet3d(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a `TextToVideoSDPipeline` folder: 32x32 pixels, 4x4 latents (8x VAE, as in the real models)."""
    torch.manual_seed(seed)
    tokenizer, text, vae = parts_of_stable_diffusion()
    unet = UNet3DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16,),  # attention of both kinds in the middle block and at the input
        down_block_types=("DownBlock3D",),
        up_block_types=("UpBlock3D",),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    fill_zero_layers(unet)
    scheduler = stable_diffusion_ddim(prediction_type)
    pipeline = TextToVideoSDPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
    )
    generation = {"frames": 4, "num_inference_steps": 4, "guidance_scale": 3.0}
    return save(pipeline, folder, {"generation": generation})


def tiny_unet_2d() -> UNet2DConditionModel:
    """The UNet of a tiny Stable Diffusion."""
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def tiny_motion_adapter(version: int = 2) -> MotionAdapter:
    """Motion modules for `tiny_unet_2d`; those of v3 have none in the middle block."""
    adapter = MotionAdapter(
        block_out_channels=(16, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        use_motion_mid_block=version == 2,
    )
    fill_zero_layers(adapter)
    return adapter


@recipe("animatediff")
def write_tiny_animatediff(folder: Path, *, seed: int = 0, version: int = 2) -> Path:
    """Write an `AnimateDiffPipeline` folder: 32x32 pixels, 4x4 latents."""
    torch.manual_seed(seed)
    tokenizer, text, vae = parts_of_stable_diffusion()
    unet = UNetMotionModel.from_unet2d(tiny_unet_2d(), tiny_motion_adapter(version))
    pipeline = AnimateDiffPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet,
        motion_adapter=None,
        scheduler=animatediff_ddim(),
    )
    generation = {"frames": 4, "num_inference_steps": 4, "guidance_scale": 3.0}
    return save(pipeline, folder, {"generation": generation})
