"""Tiny random checkpoints of the real classes, in diffusers' format, for tests without downloads.

They have every component of their pipelines (tokenizer, text encoder, VAE, denoiser, scheduler). A seed fixes
their random weights. All code paths of a real model run in milliseconds.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from safetensors.torch import save_model
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from infra.errors import UserError
from infra.files import cache_folder
from models.foundations.combine import animatediff_ddim

Recipe = TypeVar("Recipe", bound=Callable[..., Path])
VERSION = "2"  # raise it when the configurations below change: cached checkpoints have it in their name


def byte_clip_tokenizer(model_max_length: int = 32) -> CLIPTokenizer:
    """A CLIP tokenizer without merges whose vocabulary is the 256 bytes (with and without end-of-word)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    symbols = [chr(byte) for byte in printable]
    symbols += [chr(256 + index) for index in range(256 - len(printable))]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        model_max_length=model_max_length,
    )


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


RECIPES: dict[str, Callable[[Path], Path]] = {}  # by name: a family's, or one of its kinds of checkpoint


def recipe(name: str) -> Callable[[Recipe], Recipe]:
    """Decorator: register the function that writes `tiny-random:<name>`."""

    def register(write: Recipe) -> Recipe:
        RECIPES[name] = write
        return write

    return register


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
    _fill_zero_layers(unet)
    scheduler = stable_diffusion_ddim(prediction_type)
    pipeline = TextToVideoSDPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
    )
    generation = {"frames": 4, "num_inference_steps": 4, "guidance_scale": 3.0}
    return _save(pipeline, folder, {"generation": generation})


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
    _fill_zero_layers(transformer)
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
    return _save(pipeline, folder, {"generation": generation})


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
    return _save(pipeline, folder, recommended)


@recipe("wan-image-2.1")
def write_tiny_wan_image_21(folder: Path, *, seed: int = 0) -> Path:
    """Write a `WanImageToVideoPipeline` folder as 2.1."""
    return write_tiny_wan_image(folder, seed=seed, experts=False)


@recipe("wan22")
def write_tiny_wan22(folder: Path, *, seed: int = 0) -> Path:
    """Write a `WanPipeline` folder with two experts."""
    return write_tiny_wan(folder, seed=seed, experts=True)


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
    _fill_zero_layers(adapter)
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
    return _save(pipeline, folder, {"generation": generation})


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
    _fill_zero_layers(denoiser)
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
    return _save(pipeline, folder, {"generation": generation})


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


@recipe("wan22-5b")
def write_tiny_wan22_5b(folder: Path, *, seed: int = 0) -> Path:
    """Write a `WanPipeline` folder like Wan 2.2 5B."""
    return write_tiny_wan(folder, seed=seed, five_b=True)


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
    _fill_zero_layers(transformer)
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
    return _save(pipeline, folder, {"generation": generation})


def templated_tokenizer(template: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that gives a pipeline's template as many tokens as the pipeline takes it to have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: number for number, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    before, after = template["template"].split("{}")
    count = template["crop_start"]
    cuts = [len(before) * number // count for number in range(count + 1)]
    tokenizer.add_tokens([before[start:end] for start, end in itertools.pairwise(cuts)])
    tokenizer.add_tokens([after, "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


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
    _fill_zero_layers(transformer)
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
    return _save(pipeline, folder, {"generation": generation})


def tiny_checkpoint(family: str) -> Path:
    """The folder of `tiny-random:<family>`, written on first use, atomically because processes may race."""
    if family not in RECIPES:
        raise UserError(f"tiny-random:{family} does not exist; expected one of {', '.join(sorted(RECIPES))}.")
    folder = cache_folder() / f"tiny-random-{family}-v{VERSION}"
    if not (folder / "model_index.json").is_file():
        # The fork keeps the caller's random state: making a checkpoint must not change later draws.
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = RECIPES[family](Path(scratch) / "model")
            try:
                os.rename(made, folder)
            except OSError:
                shutil.rmtree(made)  # another process was first
    return folder


def _fill_zero_layers(model: torch.nn.Module) -> None:
    """Give zero-initialised output layers random weights; otherwise most layers would have no effect."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)


def _save(pipeline: Any, folder: Path, recommended: dict) -> Path:
    pipeline.save_pretrained(folder, safe_serialization=True)
    weights = folder / "text_encoder" / "model.safetensors"
    if not weights.exists():  # transformers writes them only on the first rank of a process group
        save_model(pipeline.text_encoder, str(weights), metadata={"format": "pt"})
    (folder / "recommended.yaml").write_text(yaml.safe_dump(recommended))
    return folder
