"""The family of `WanPipeline`, Wan 2.1 and 2.2 (models/foundations/wan/wan.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

TOKENS = 512  # the stock pipeline's limit
AUTHORS = "github.com/Wan-Video/Wan2.2: wan/configs"
TRAINER = "docs/wan.md of github.com/kohya-ss/musubi-tuner"


# Of diffusers and of the authors' code, inside a block and outside of one.
ORIGINAL = (
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    ("add_k_proj", "k_img"),
    ("add_v_proj", "v_img"),
    (".to_out.0", ".o"),
    (".to_", "."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("proj_out", "head.head"),
)


@register
class WanSpec(FamilySpec):
    name = "wan"
    title = "Wan 2.1 and 2.2 (text to video)"
    pipeline_class = "WanPipeline"
    components: ClassVar = {
        "denoiser": ("transformer", "transformer_2"),  # the second in Wan 2.2 14B alone
        "text": ("text_encoder", "tokenizer"),
        "vae": ("vae",),
    }
    vae_dtype = "float32"  # as its authors advise
    defaults: ClassVar = {
        "2.1": Sourced(
            Defaults(Bucket(81, 480, 832), fps=16, num_inference_steps=50, guidance_scale=5.0),
            "defaults of diffusers' WanPipeline; fps: its example",
        ),
        "2.2 14B": Sourced(
            Defaults(Bucket(81, 720, 1280), fps=16, num_inference_steps=40, guidance_scale=4.0),
            f"{AUTHORS}/wan_t2v_A14B.py (4 is for high noise), fps: shared_config.py",
        ),
        "2.2 5B": Sourced(
            Defaults(Bucket(121, 704, 1280), fps=24, num_inference_steps=50, guidance_scale=5.0),
            f"{AUTHORS}/wan_ti2v_5B.py; size: README.md",
        ),
    }

    training: ClassVar = {
        "learning_rate": Sourced(2e-4, TRAINER),
        "rank": Sourced(32, TRAINER),
        "gradient_checkpointing": Sourced(True, TRAINER),
    }
    limits: ClassVar[tuple[str, ...]] = (
        "2.2 14B: one guidance scale for both experts; its authors have 4 for high and 3 for low noise",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae, index = read_config(folder, "vae"), read_config(folder, "")
        two = bool(index.get("transformer_2", [None])[0])
        if two != (index.get("boundary_ratio") is not None) or not index.get("transformer", [None])[0]:
            raise UserError(
                f"{name} has one of its two denoising experts (Wan 2.2) or no boundary between them; expected transformer, "
                "transformer_2 and boundary_ratio in its model_index.json, so download the checkpoint again.",
                code="unsupported_foundation",
            )
        _, patch_height, patch_width = read_config(folder, "transformer").get("patch_size") or (1, 2, 2)
        spatial, temporal = vae.get("scale_factor_spatial") or 8, vae.get("scale_factor_temporal") or 4
        kind = "2.2 5B" if index.get("expand_timesteps") else "2.2 14B" if two else "2.1"
        usual: Defaults = self.defaults[kind].value
        multiples = (spatial * patch_height, spatial * patch_width)
        return Sizes(name, usual.updated(recommended.get("generation", {})), spatial, temporal, multiples)

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    comfyui = True

    def original_names(self, layer: str) -> tuple[tuple[str, int], ...]:
        for ours, theirs in ORIGINAL:
            layer = layer.replace(ours, theirs)
        return ((layer, 0),)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.wan.wan import WanFoundation

        return WanFoundation
