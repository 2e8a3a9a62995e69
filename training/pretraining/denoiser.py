"""Second stage of the sprite foundation: text encoder and UNet3D, trained together on clips rendered on the fly.

    python -m motiondirector sprites pretrain --stage unet --out runs/foundation

The autoencoder is frozen. Training uses v-prediction with a zero terminal SNR (Lin et al. 2024: the
last timestep is pure noise, as in sampling), dropped captions for classifier-free guidance, and
averaged weights. It begins with single frames, which cost an eighth of a clip and skip all temporal
layers, and continues with clips and a share of single frames: the spatial path must know single frames,
because the method trains it on them. Clips come from a moving window of rendered ones (`pool.py`).

Letters: B batch, C latent channels, F frames, h and w latent pixels.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from datasets.sprites.captions import canonical, caption
from models.foundations.shared.noise import DDPMNoise
from models.foundations.unets.unet3d import (
    convolve_over_frames_in_two_dimensions,
    skip_temporal_for_single_frames,
)
from training.pretraining.common import Average, Schedule, draws, load_state, log, save_state, to_video
from training.pretraining.curriculum import STAGES, Stage, stage_at
from training.pretraining.muon import MuonWithAdamW
from training.pretraining.pool import ClipPool
from training.pretraining.tokenizer import MAX_LENGTH, write_tokenizer

FRAMES, SIZE = 8, 64
TEXT_WIDTH = 128
CAPTION_DROPOUT = 0.1
UNSAID_MOTION = 0.1  # share of clips whose caption names only the appearance


@dataclass(frozen=True)
class Recipe:
    """Settings of the stage. The released checkpoint's run was longer and less regular (see its card)."""

    steps: int = 5400
    image_steps: int = 500  # the first steps see single frames only
    curriculum: tuple[Stage, ...] = (
        STAGES  # then come simple straight motions, at high noise (`curriculum.py`)
    )
    curriculum_share: float = 0.25  # share of later batches from its last stage: otherwise it is forgotten
    image_share: float = 0.15  # share of later batches with single frames
    clips: int = 16  # clips per batch
    images: int = 64  # single frames per batch
    # At twice this rate the model forgot the motion words within a hundred steps on the whole world.
    learning_rate: float = 6e-4
    decay: float = 0.3
    average: float = 0.995
    # timestep = T * u ** noise_bias: below 1 leans to high noise, where motion is decided
    noise_bias: float = 0.7
    pool: int = 2048  # clips in the window that batches are drawn from
    fresh: int = 6  # new clips per step
    seed: int = 0


@dataclass
class Parts:
    """The trainable and the frozen parts of the pipeline."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet3DConditionModel
    vae: AutoencoderKL
    scheduler: DDIMScheduler

    def tokens(self, captions: list[str], device: str) -> Tensor:
        """Token ids of captions, int64 [B, MAX_LENGTH]."""
        encoded = self.tokenizer(
            captions, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
        )
        return encoded.input_ids.to(device)


def make_scheduler() -> DDIMScheduler:
    """Scaled-linear betas rescaled to zero terminal SNR, v-prediction, sampling from the last timestep."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def build_parts(out: Path, vae: AutoencoderKL, seed: int = 0) -> Parts:
    """An untrained text encoder and UNet3D around a trained autoencoder; writes `out/tokenizer`."""
    torch.manual_seed(seed)
    folder = out / "tokenizer"
    # A resumed run keeps its tokenizer: the order of equally frequent merges varies between trainings.
    known = (folder / "tokenizer_config.json").is_file()
    tokenizer = CLIPTokenizer.from_pretrained(folder) if known else write_tokenizer(folder)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet3DConditionModel(
        sample_size=SIZE // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        # attention only where it is cheap: at 8x8 and 4x4; the finest level has only convolutions
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    with torch.no_grad():
        # Token embeddings larger than position embeddings, and temporal layers that start at zero: both
        # save steps.
        text_encoder.get_input_embeddings().weight.mul_(3.0)
        for module in unet.modules():
            if isinstance(module, TransformerTemporalModel):
                module.proj_out.weight.zero_()
                module.proj_out.bias.zero_()
    return Parts(tokenizer, text_encoder, unet, vae, make_scheduler())


def load_parts(folder: Path) -> Parts:
    """The parts of a released checkpoint in float32, for further training."""
    pipeline = TextToVideoSDPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae, pipeline.scheduler)


def save_pipeline(parts: Parts, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a stock TextToVideoSDPipeline in `dtype` to `folder`, replacing the weights there."""
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    # copy in the released precision; the parts themselves stay unchanged
    lower = [
        type(m).from_config({key: value for key, value in m.config.items() if key != "_name_or_path"})
        for m in (parts.vae, parts.unet)  # a released configuration must not contain local paths
    ]
    lower.append(CLIPTextModel(parts.text_encoder.config))
    for copy, module in zip(lower, (parts.vae, parts.unet, parts.text_encoder), strict=True):
        copy.load_state_dict(module.state_dict())
        copy.to(dtype)
    vae, unet, text_encoder = lower
    pipeline = TextToVideoSDPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=parts.tokenizer, unet=unet, scheduler=parts.scheduler
    )
    pipeline.save_pretrained(fresh, safe_serialization=True)
    folder.mkdir(parents=True, exist_ok=True)
    for item in fresh.iterdir():
        target = folder / item.name
        if target.is_dir():
            shutil.rmtree(target)
        item.replace(target)
    fresh.rmdir()


def make_pool(parts: Parts, recipe: Recipe, device: str, stage: Stage | None = None) -> ClipPool:
    """The window of clips for the recipe's batches; smaller for a stage of the curriculum."""
    return ClipPool(
        lambda videos: encode(parts.vae, videos, device),
        seed=recipe.seed,
        size=max(1, recipe.pool // 16) if stage else recipe.pool,
        fresh=recipe.fresh,
        frames=FRAMES,
        side=SIZE,
        stage=stage,
    )


def stage_of(rng: np.random.Generator, recipe: Recipe, step: int) -> Stage | None:
    """The curriculum's stage that the step draws its batch from; None for the whole world."""
    after = step - recipe.image_steps - sum(stage.steps for stage in recipe.curriculum)
    if recipe.curriculum and after >= 0 and rng.random() < recipe.curriculum_share:
        return recipe.curriculum[-1]
    return stage_at(step - recipe.image_steps, recipe.curriculum)


def draw_batch(
    pool: ClipPool, rng: np.random.Generator, recipe: Recipe, step: int
) -> tuple[Tensor, list[str]]:
    """Latents [B, C, F, h, w] (F is 1 for a batch of single frames) and their captions, some empty."""
    single = pool.stage is None and (step < recipe.image_steps or rng.random() < recipe.image_share)
    latents, contents = pool.draw(rng, recipe.images if single else recipe.clips, single=single)
    if pool.stage is not None and not pool.stage.paraphrases:
        return latents, [canonical(one.scene, one.motion) for one in contents]
    captions = []
    for one in contents:
        unsaid = rng.random() < (0.5 if single else UNSAID_MOTION)
        text = caption(one.scene, None if unsaid else one.motion, rng, "" if unsaid else one.adverb)
        captions.append("" if rng.random() < CAPTION_DROPOUT else text)
    return latents, captions


@torch.no_grad()
def encode(vae: AutoencoderKL, videos: np.ndarray, device: str) -> Tensor:
    """Encode uint8 [B, F, H, W, 3] to latents [B, C, F, h, w], scaled to unit variance."""
    x_BFCHW = to_video(videos, device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
        latents = vae.encode(x_BFCHW.flatten(0, 1)).latent_dist.mean.float()
    return (latents * vae.config.scaling_factor).unflatten(0, x_BFCHW.shape[:2]).transpose(1, 2)


def denoising_loss(
    parts: Parts,
    noise: DDPMNoise,
    x0: Tensor,
    captions: list[str],
    noise_bias: float,
    generator: torch.Generator,
    device: str,
) -> Tensor:
    """Mean squared error of v over the batch; draws timesteps and noise from `generator` (on the CPU)."""
    eps = torch.randn(x0.shape, generator=generator).to(device)
    u_B = torch.rand(len(x0), generator=generator) ** noise_bias
    t_B = noise.timesteps(u_B).to(device)
    with torch.autocast(device.split(":")[0], torch.bfloat16):
        text_BLD = parts.text_encoder(parts.tokens(captions, device)).last_hidden_state
        answer = parts.unet(noise.add(x0, eps, t_B), t_B, encoder_hidden_states=text_BLD).sample
    return torch.nn.functional.mse_loss(answer.float(), noise.target(x0, eps, t_B))


def train_unet(
    out: Path,
    recipe: Recipe,
    parts: Parts,
    *,
    device: str = "cpu",
    every: int = 50,
    stop: int | None = None,
    resume: bool = True,
    progress: Callable[[int, dict], None] = lambda step, record: None,
) -> Parts:
    """Train to `recipe.steps`; save `out/unet_state.pt` and the averaged `out/pipeline` every `every` steps.


    `resume` continues from an existing state; `stop` ends this part of the run early. Returns the parts
    with averaged weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    vae, unet, text_encoder = (m.to(device).eval() for m in (parts.vae, parts.unet, parts.text_encoder))
    vae.requires_grad_(False)
    if device == "cpu":
        # On a CPU, the backward of fused attention in bf16 is several times slower than plain matrix
        # products.
        unet.set_attn_processor(AttnProcessor())
    skip_temporal_for_single_frames(unet)  # eval mode: the temporal convolutions' dropout stays off
    convolve_over_frames_in_two_dimensions(unet)
    modules = {"unet": unet, "text_encoder": text_encoder}
    trained = [p for m in modules.values() for p in m.parameters()]
    for p in trained:
        p.requires_grad_(True)
    optimizer = MuonWithAdamW(modules, recipe.learning_rate)
    average = Average([*modules.values()], recipe.average)
    schedule = Schedule(recipe.learning_rate, recipe.steps, decay=recipe.decay)
    state = out / "unet_state.pt"
    first = load_state(state, modules, optimizer, average, device) if resume and state.exists() else 0
    noise, losses = DDPMNoise(parts.scheduler), []
    pools = {stage: make_pool(parts, recipe, device, stage) for stage in (None, *recipe.curriculum)}
    started = time.monotonic()
    for step in range(first, min(recipe.steps, stop or recipe.steps)):
        rng, generator = draws(recipe.seed, step)
        stage = stage_of(rng, recipe, step)
        pool, bias = pools[stage], stage.noise_bias if stage else recipe.noise_bias
        pool.advance(step)
        latents, captions = draw_batch(pool, rng, recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        loss = denoising_loss(parts, noise, latents, captions, bias, generator, device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            record = {
                "stage": "unet",
                "step": step + 1,
                "loss": float(np.mean(losses)),
                "s": time.monotonic() - started,
            }
            losses.clear()
            log(out, record)
            progress(step + 1, record)
            save_state(state, step + 1, modules, optimizer, average)
            average.swap()
            save_pipeline(parts, out / "pipeline")
            average.swap()
    average.swap()
    return parts
