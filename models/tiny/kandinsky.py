"""A tiny Kandinsky 5 checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from models.tiny.recipes import fill_zero_layers, recipe, save
from models.tiny.text import byte_clip_tokenizer, templated_tokenizer


@recipe("kandinsky5")
def write_tiny_kandinsky5(folder: Path, *, seed: int = 0) -> Path:
    """Write a `Kandinsky5T2VPipeline` folder: 32x32 pixels, 5 frames as 2 latent frames (8x 4x, as in the real VAE).

    Its tokenizer is a plain one: a Qwen's processor needs torchvision.
    """
    torch.manual_seed(seed)
    tokenizer_2 = byte_clip_tokenizer(77)
    text_2 = CLIPTextConfig(
        vocab_size=len(tokenizer_2),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=len(tokenizer_2) - 2,
        eos_token_id=len(tokenizer_2) - 1,
        pad_token_id=len(tokenizer_2) - 1,
    )
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=32,
        in_text_dim2=16,
        time_dim=32,
        model_dim=24,
        ff_dim=48,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 4, 4),
        visual_cond=True,
    )
    fill_zero_layers(transformer)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    pipeline = Kandinsky5T2VPipeline(
        tokenizer=None,
        text_encoder=None,
        tokenizer_2=tokenizer_2,
        text_encoder_2=CLIPTextModel(text_2).eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    tokenizer = templated_tokenizer(
        {"template": pipeline.prompt_template, "crop_start": pipeline.prompt_template_encode_start_idx}
    )
    tiny = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    text = Qwen2_5_VLConfig(
        text_config={
            **tiny,
            "vocab_size": len(tokenizer),
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
    )
    pipeline.register_modules(
        tokenizer=tokenizer, text_encoder=Qwen2_5_VLForConditionalGeneration(text).eval()
    )
    generation = {
        "frames": 5,
        "height": 32,
        "width": 32,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})
