"""A model of ZeroScope's shape with random weights, for timings without a download.

    python benchmarks/zeroscope.py --to /models/zeroscope-shaped
    python benchmarks/serving.py --models /models/zeroscope-shaped --device cuda
    python benchmarks/training.py --foundation /models/zeroscope-shaped --device cuda

A complete `TextToVideoSDPipeline` in float16: 1.41 billion parameters in the UNet, 0.34 in the text encoder, 0.08 in the VAE;
3.7 GB. Its videos are noise. Time and memory of a step do not depend on the weights.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, TextToVideoSDPipeline, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from models.tiny.text import byte_clip_tokenizer
from models.tiny.unets import stable_diffusion_ddim


@dataclass(frozen=True)
class Shape:
    """Widths and depths; defaults from the public configurations of ZeroScope v2 (and ModelScope's text-to-video-ms-1.7b)."""

    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    unet_head: int = 64
    text: int = 1024
    text_layers: int = 23
    text_heads: int = 16
    tokens: int = 77
    vae: tuple[int, ...] = (128, 256, 512, 512)
    groups: int = 32


def build(shape: Shape, dtype: torch.dtype = torch.float16) -> TextToVideoSDPipeline:
    """The pipeline with random weights from a fixed seed."""
    torch.manual_seed(0)
    tokenizer = byte_clip_tokenizer(shape.tokens)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=shape.text,
        intermediate_size=4 * shape.text,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_heads,
        max_position_embeddings=shape.tokens,
        hidden_act="gelu",
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )
    unet = UNet3DConditionModel(
        sample_size=32,
        block_out_channels=shape.unet,
        cross_attention_dim=shape.text,
        attention_head_dim=shape.unet_head,
        norm_num_groups=shape.groups,
    )
    vae = AutoencoderKL(
        block_out_channels=shape.vae,
        down_block_types=("DownEncoderBlock2D",) * len(shape.vae),
        up_block_types=("UpDecoderBlock2D",) * len(shape.vae),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=shape.groups,
        sample_size=256,
    )
    return TextToVideoSDPipeline(
        vae=vae.to(dtype).eval(),
        text_encoder=CLIPTextModel(text).to(dtype).eval(),
        tokenizer=tokenizer,
        unet=unet.to(dtype).eval(),
        scheduler=stable_diffusion_ddim(),
    )


def write(folder: Path, shape: Shape | None = None, size: tuple[int, int, int] = (16, 256, 256)) -> Path:
    """Write `build` atomically in diffusers' format. `size` is the recommended frames, height and width."""
    if (folder / "model_index.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        build(shape or Shape()).save_pretrained(made, safe_serialization=True)
        frames, height, width = size
        generation = {"frames": frames, "height": height, "width": width}
        generation |= {"num_inference_steps": 25, "guidance_scale": 9.0}
        (made / "recommended.yaml").write_text(yaml.safe_dump({"generation": generation}))
        shutil.move(made, folder)
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--to", type=Path, required=True, help="the folder to write; an existing model there is kept"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        default=(16, 256, 256),
        metavar=("FRAMES", "HEIGHT", "WIDTH"),
        help="recommended video size, which benchmarks therefore use (default: 16 256 256)",
    )
    options = parser.parse_args(arguments)
    print(f"the model is in {write(options.to, size=tuple(options.size))}")


if __name__ == "__main__":
    main()
