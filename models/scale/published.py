"""Configurations of published checkpoints, without weights: `published:wan-2.1-14b` and others.

Enough for a model's layers and shapes, so that its memory can be computed and an adapter's names be checked where nothing
can be downloaded. What is not said here is the default of the class of diffusers or transformers. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.files import cache_folder

PREFIX = "published:"
VERSION = "1"  # raise it when the configurations below change: written folders have it in their name

SCRIPTS = "github.com/huggingface/diffusers: scripts"
DIFFUSERS, TRANSFORMERS = "diffusers", "transformers"
TOKENIZERS = {
    "CLIPTextModel": "CLIPTokenizer",
    "LlamaModel": "LlamaTokenizerFast",
    "T5EncoderModel": "T5Tokenizer",
}
TOKENIZERS["UMT5EncoderModel"] = "T5TokenizerFast"
Part = tuple[str, str, Mapping[str, Any]]  # library, class, configuration


@dataclass(frozen=True)
class Published:
    """The parts of a checkpoint whose weights someone published."""

    hub: str  # where the weights are
    pipeline: str  # diffusers' class
    source: str  # of the numbers
    parts: Mapping[str, Part]
    more: Mapping[str, Any]  # further entries of model_index.json


def _wan(
    width: int, heads: int, layers: int, feed_forward: int, channels: int = 16, out: int | None = None
) -> Part:
    assert width == heads * 128
    return (
        DIFFUSERS,
        "WanTransformer3DModel",
        {
            "attention_head_dim": 128,
            "num_attention_heads": heads,
            "num_layers": layers,
            "ffn_dim": feed_forward,
            "in_channels": channels,
            "out_channels": out or channels,
            "cross_attn_norm": True,
            "text_dim": 4096,
        },
    )


WAN_14B = _wan(5120, 40, 40, 13824)
WAN_VAE: Part = (DIFFUSERS, "AutoencoderKLWan", {})
WAN_IMAGE_14B = _wan(5120, 40, 40, 13824, 36, 16)
WAN_22_VAE: Part = (
    DIFFUSERS,
    "AutoencoderKLWan",
    {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "scale_factor_temporal": 4,
        "clip_output": False,
        "latents_mean": [0.0] * 48,  # values have no influence on the memory
        "latents_std": [1.0] * 48,
    },
)


def _unipc(shift: float) -> Part:
    return (
        DIFFUSERS,
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift},
    )


XXL: dict[str, Any] = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
XXL |= {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False, "tie_word_embeddings": False}
UMT5_XXL: Part = (TRANSFORMERS, "UMT5EncoderModel", {**XXL, "model_type": "umt5", "vocab_size": 256384})
T5_XXL: Part = (TRANSFORMERS, "T5EncoderModel", {**XXL, "model_type": "t5", "vocab_size": 32128})
CLIP_L: Part = (
    TRANSFORMERS,
    "CLIPTextModel",
    {
        "model_type": "clip_text_model",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
    },
)
OPEN_CLIP_H: Part = (
    TRANSFORMERS,
    "CLIPTextModel",
    {
        **CLIP_L[2],
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
    },
)
LLAMA_8B: Part = (
    TRANSFORMERS,
    "LlamaModel",
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128320,
    },
)
STABLE_DIFFUSION_VAE: Part = (
    DIFFUSERS,
    "AutoencoderKL",
    {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    },
)
DDIM = {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "clip_sample": False}
LTX_SCHEDULER: Part = (
    DIFFUSERS,
    "FlowMatchEulerDiscreteScheduler",
    {
        "use_dynamic_shifting": True,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "shift_terminal": 0.1,
    },
)
LTX_VAE_097: Part = (
    DIFFUSERS,
    "AutoencoderKLLTXVideo",
    {
        "block_out_channels": [128, 256, 512, 1024, 2048],
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
        "decoder_block_out_channels": [256, 512, 1024],
        "layers_per_block": [4, 6, 6, 2, 2],
        "decoder_layers_per_block": [5, 5, 5, 5],
        "spatio_temporal_scaling": [True] * 4,
        "decoder_spatio_temporal_scaling": [True] * 3,
        "decoder_inject_noise": [False] * 4,
        "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        "upsample_residual": [True] * 3,
        "upsample_factor": [2, 2, 2],
        "timestep_conditioning": True,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
)
COGVIDEOX_SCHEDULER: Part = (
    DIFFUSERS,
    "CogVideoXDDIMScheduler",
    {
        "snr_shift_scale": 3.0,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    },
)


def _animatediff(adapter: str, middle: bool) -> Published:
    return Published(
        f"{adapter} with Stable Diffusion 1.5",
        "AnimateDiffPipeline",
        f"defaults of diffusers' MotionAdapter and {SCRIPTS}/convert_animatediff_motion_module_to_diffusers.py; "
        f"{'with' if middle else 'without'} a motion module in the middle block",
        {
            "unet": (
                DIFFUSERS,
                "UNetMotionModel",
                {
                    "sample_size": 64,
                    "block_out_channels": [320, 640, 1280, 1280],
                    "cross_attention_dim": 768,
                    "num_attention_heads": 8,
                    "motion_num_attention_heads": 8,
                    "motion_max_seq_length": 32,
                    "use_motion_mid_block": middle,
                },
            ),
            "text_encoder": CLIP_L,
            "vae": STABLE_DIFFUSION_VAE,
            "scheduler": (DIFFUSERS, "DDIMScheduler", {**DDIM, "beta_schedule": "linear"}),
        },
        {},
    )


PUBLISHED: dict[str, Published] = {
    "zeroscope": Published(
        "cerspense/zeroscope_v2_576w",
        "TextToVideoSDPipeline",
        "defaults of diffusers' UNet3DConditionModel, which are those of ModelScope; text: OpenCLIP ViT-H without its last "
        "layer, as in Stable Diffusion 2",
        {
            "unet": (DIFFUSERS, "UNet3DConditionModel", {"sample_size": 32}),
            "text_encoder": OPEN_CLIP_H,
            "vae": STABLE_DIFFUSION_VAE,
            "scheduler": (DIFFUSERS, "DDIMScheduler", {**DDIM, "beta_schedule": "scaled_linear"}),
        },
        {},
    ),
    "animatediff-v2": _animatediff("guoyww/animatediff-motion-adapter-v1-5-2", middle=True),
    "animatediff-v3": _animatediff("guoyww/animatediff-motion-adapter-v1-5-3", middle=False),
    "wan-2.1-1.3b": Published(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "WanPipeline",
        f"{SCRIPTS}/convert_wan_to_diffusers.py, Wan-T2V-1.3B",
        {
            "transformer": _wan(1536, 12, 30, 8960),
            "text_encoder": UMT5_XXL,
            "vae": WAN_VAE,
            "scheduler": _unipc(3.0),
        },
        {},
    ),
    "wan-2.1-14b": Published(
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "WanPipeline",
        f"{SCRIPTS}/convert_wan_to_diffusers.py, Wan-T2V-14B",
        {"transformer": WAN_14B, "text_encoder": UMT5_XXL, "vae": WAN_VAE, "scheduler": _unipc(3.0)},
        {},
    ),
    "wan-2.2-14b": Published(
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        "WanPipeline",
        f"{SCRIPTS}/convert_wan_to_diffusers.py, Wan2.2-T2V-A14B",
        {
            "transformer": WAN_14B,
            "transformer_2": WAN_14B,
            "text_encoder": UMT5_XXL,
            "vae": WAN_VAE,
            "scheduler": _unipc(3.0),
        },
        {"boundary_ratio": 0.875},
    ),
    "wan-2.2-5b": Published(
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        "WanPipeline",
        f"{SCRIPTS}/convert_wan_to_diffusers.py, Wan2.2-TI2V-5B",
        {
            "transformer": _wan(3072, 24, 30, 14336, 48),
            "text_encoder": UMT5_XXL,
            "vae": WAN_22_VAE,
            "scheduler": _unipc(5.0),
        },
        {"expand_timesteps": True},
    ),
    "wan-2.2-image-14b": Published(
        "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        "WanImageToVideoPipeline",
        f"{SCRIPTS}/convert_wan_to_diffusers.py, Wan2.2-I2V-14B-720p",
        {
            "transformer": WAN_IMAGE_14B,
            "transformer_2": WAN_IMAGE_14B,
            "text_encoder": UMT5_XXL,
            "vae": WAN_VAE,
            "scheduler": _unipc(3.0),
        },
        {"boundary_ratio": 0.9},
    ),
    "hunyuan-video": Published(
        "hunyuanvideo-community/HunyuanVideo",
        "HunyuanVideoPipeline",
        f"defaults of diffusers' classes, as {SCRIPTS}/convert_hunyuan_video_to_diffusers.py takes them; text: Llama 3 8B "
        "(of LLaVA) and CLIP ViT-L",
        {
            "transformer": (DIFFUSERS, "HunyuanVideoTransformer3DModel", {}),
            "text_encoder": LLAMA_8B,
            "text_encoder_2": CLIP_L,
            "vae": (DIFFUSERS, "AutoencoderKLHunyuanVideo", {}),
            "scheduler": (DIFFUSERS, "FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
        },
        {},
    ),
    "cogvideox-5b": Published(
        "zai-org/CogVideoX-5b",
        "CogVideoXPipeline",
        f"{SCRIPTS}/convert_cogvideox_to_diffusers.py",
        {
            "transformer": (
                DIFFUSERS,
                "CogVideoXTransformer3DModel",
                {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True},
            ),
            "text_encoder": T5_XXL,
            "vae": (DIFFUSERS, "AutoencoderKLCogVideoX", {"scaling_factor": 0.7}),
            "scheduler": COGVIDEOX_SCHEDULER,
        },
        {},
    ),
    "ltx-2b": Published(
        "Lightricks/LTX-Video",
        "LTXPipeline",
        f"{SCRIPTS}/convert_ltx_to_diffusers.py, 0.9.0",
        {
            "transformer": (DIFFUSERS, "LTXVideoTransformer3DModel", {}),
            "text_encoder": T5_XXL,
            "vae": (DIFFUSERS, "AutoencoderKLLTXVideo", {}),
            "scheduler": LTX_SCHEDULER,
        },
        {},
    ),
    "ltx-13b": Published(
        "Lightricks/LTX-Video-0.9.7-dev",
        "LTXPipeline",
        f"{SCRIPTS}/convert_ltx_to_diffusers.py, 0.9.7",
        {
            "transformer": (
                DIFFUSERS,
                "LTXVideoTransformer3DModel",
                {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
            ),
            "text_encoder": T5_XXL,
            "vae": LTX_VAE_097,
            "scheduler": LTX_SCHEDULER,
        },
        {},
    ),
}


def published_folder(name: str) -> Path:
    """The folder of a checkpoint's configurations, in diffusers' format, written on first use. Raises UserError."""
    if name not in PUBLISHED:
        raise UserError(f"{PREFIX}{name} does not exist; expected one of {', '.join(sorted(PUBLISHED))}.")
    folder = cache_folder() / f"published-{name}-v{VERSION}"
    if not (folder / "model_index.json").is_file():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = write_configurations(PUBLISHED[name], Path(scratch) / "model")
            try:
                os.rename(made, folder)
            except OSError:
                shutil.rmtree(made)  # another process was first
    return folder


def write_configurations(published: Published, folder: Path) -> Path:
    """Write a checkpoint's configurations into a new folder and return it."""
    index: dict[str, Any] = {"_class_name": published.pipeline, **published.more}
    for name, (library, class_name, config) in published.parts.items():
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        own = {"_class_name": class_name} if library == DIFFUSERS else {"architectures": [class_name]}
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_text(json.dumps({**own, **config}, indent=1))
        index[name] = [library, class_name]
        if name.startswith("text_encoder"):  # a pipeline names its tokenizer; the files are with the weights
            tokenizer = name.replace("text_encoder", "tokenizer")
            index[tokenizer] = [TRANSFORMERS, TOKENIZERS[class_name]]
            (folder / tokenizer).mkdir()
            (folder / tokenizer / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    return folder
