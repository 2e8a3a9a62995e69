"""Tiny HunyuanVideo checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from models.tiny.recipes import fill_zero_layers, recipe, save
from models.tiny.text import byte_clip_tokenizer, templated_tokenizer


@recipe("hunyuan")
def write_tiny_hunyuan(folder: Path, *, seed: int = 0) -> Path:
    """Write a `HunyuanVideoPipeline` folder: 32x32 pixels, 5 frames as 2 latent frames (8x 4x, as in the real VAE)."""
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = templated_tokenizer(DEFAULT_PROMPT_TEMPLATE), byte_clip_tokenizer(77)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
    )
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
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4),
    )
    fill_zero_layers(transformer)
    pipeline = HunyuanVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=LlamaModel(text).eval(),
        tokenizer_2=tokenizer_2,
        text_encoder_2=CLIPTextModel(text_2).eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),  # as in hunyuanvideo-community/HunyuanVideo
        transformer=transformer,
    )
    generation = {
        "frames": 5,
        "height": 32,
        "width": 32,
        "num_inference_steps": 4,
        "guidance_scale": 6.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})


CHAT = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n{{ one.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@recipe("hunyuan15")
def write_tiny_hunyuan15(folder: Path, *, seed: int = 0) -> Path:
    """Write a `HunyuanVideo15Pipeline` folder: 32x32 pixels, 5 frames as 2 latent frames of 2x2 (16x 4x, as in the real VAE)."""
    torch.manual_seed(seed)
    pipeline = HunyuanVideo15Pipeline(
        tokenizer=None,
        text_encoder=None,
        tokenizer_2=ByT5Tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ).eval(),
        vae=AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=32,
            text_embed_2_dim=16,
            image_embed_dim=16,
            rope_axes_dim=(4, 4, 4),
            task_type="t2v",
        ),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    fill_zero_layers(pipeline.transformer)
    before = f"<|im_start|>system\n{pipeline.system_message}<|im_end|>\n<|im_start|>user\n"
    crop = pipeline.prompt_template_encode_start_idx
    tokenizer = templated_tokenizer(
        {"template": before + "{}<|im_end|>\n<|im_start|>assistant\n", "crop_start": crop}
    )
    tokenizer.chat_template = CHAT
    text = Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    )
    pipeline.register_modules(tokenizer=tokenizer, text_encoder=Qwen2_5_VLTextModel(text).eval())
    generation = {
        "frames": 5,
        "height": 32,
        "width": 32,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "fps": 8,
    }
    return save(pipeline, folder, {"generation": generation})
