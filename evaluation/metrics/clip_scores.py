"""CLIP metrics with the user's weights: text alignment, PickScore, temporal consistency and diversity.

Nothing is downloaded unless named, and without weights there are no values: `ClipScorer.load` takes a
folder or a hub id and raises if it cannot load it. Frames go through the processor stored with the
weights. Prompts are truncated to the text tower's length, as in the usual CLIP score.

Letters: F frames, D width of the shared embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError

from evaluation.metric import Case, PerCase
from evaluation.metrics.diversity import PairDistance
from evaluation.metrics.memo import Memo
from infra.errors import UserError
from infra.paths import expanded

BATCH = 16  # frames per forward


@dataclass
class ClipScorer:
    """A CLIP model with its processor. `embed_frames(video)` and `embed_text(prompt)` give unit vectors."""

    model: Any
    processor: Any
    source: str

    def __post_init__(self) -> None:
        self.embed_frames = Memo(self._embed_frames, size=256)

    @classmethod
    def load(cls, source: str | None, *, what: str = "CLIP", device: str | None = None) -> ClipScorer:
        """Load from a folder or a hub id (`owner/name`), safetensors only, in float32.

        Args:
            what: "CLIP" or "PickScore", for messages.
            device: by default a CUDA device if available.

        Raises:
            UserError (code "weights_missing"): no source given, no such folder, or not a CLIP model
            with its processor.
        """
        if not source:
            raise UserError(
                f"{what} needs weights, but none were given; give a folder of a transformers CLIPModel or a hub id.",
                code="weights_missing",
            )
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

        folder = expanded(source)
        local = folder.exists()
        if not local and (source.startswith((".", "/", "~")) or source.count("/") != 1):
            raise UserError(
                f"{what} weights {source!r} are neither an existing folder nor a hub id (`owner/name`); give one of the two.",
                code="weights_missing",
            )
        where = str(folder) if local else source
        try:
            model, found = CLIPModel.from_pretrained(
                where, use_safetensors=True, local_files_only=local, output_loading_info=True
            )
            missing = sorted({*found["missing_keys"], *map(str, found["mismatched_keys"])})
            if missing:  # transformers would continue with random values for these
                raise ValueError(f"{len(missing)} of its tensors are missing, such as {missing[0]}")
            tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
            images = CLIPImageProcessorPil.from_pretrained(where, local_files_only=local)
        except (
            OSError,
            ValueError,
            RuntimeError,
            KeyError,
            AttributeError,
            TypeError,
            SafetensorError,
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{what} weights {source!r} cannot be loaded as a CLIPModel with its processor from safetensors: {reason}",
                code="weights_missing",
            ) from None
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.eval().to(device), CLIPProcessor(images, tokenizer), source)

    @torch.inference_mode()
    def _embed_frames(self, video_FHWC: np.ndarray) -> torch.Tensor:
        parts = []
        for first in range(0, len(video_FHWC), BATCH):
            inputs = self.processor(images=list(video_FHWC[first : first + BATCH]), return_tensors="pt")
            pixels = inputs["pixel_values"].to(self.model.device)
            parts.append(self.model.get_image_features(pixel_values=pixels).pooler_output)
        return torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_text(self, prompt: str) -> torch.Tensor:
        """The prompt's embedding [D], of length 1."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.processor(
            text=[prompt], return_tensors="pt", padding=True, truncation=True, max_length=longest
        ).to(self.model.device)
        features = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1)[0].cpu()

    def likeness(self, case: Case) -> float:
        """Mean over frames of cos(image, text), in [-1, 1]."""
        return float((self.embed_frames(case.video_FHWC) @ self.embed_text(case.prompt)).mean())

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())


class ClipTextAlignment(PerCase):
    """CLIP score of frames and prompt; higher is better, [-100, 100] (about 20 to 35 for matching pairs).

    `100 * mean_f cos(image(frame_f), text(prompt))`. Hessel et al. 2021 (arXiv 2104.08718) without
    their factor 2.5 and clipping. With diverse prompts it is the column "appearance diversity" of
    MotionDirector (arXiv 2310.08465).
    """

    name = "clip_text_alignment"
    title = "text alignment (CLIP)"
    better: Literal["higher", "lower"] = "higher"
    range = (-100.0, 100.0)

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def value(self, case: Case) -> float | None:
        return 100 * self.clip.likeness(case)


class PickScore(PerCase):
    """PickScore of frames and prompt; higher is better, about 15 to 25.

    `exp(logit_scale) * mean_f cos(image(frame_f), text(prompt))` with the weights of
    yuvalkirstain/PickScore_v1, a CLIP-H fine-tuned on human choices. Kirstain et al. 2023 (arXiv
    2305.01569), averaged over frames as in MotionDirector. The range is +- the exponentiated logit
    scale, near 100.
    """

    name = "pickscore"
    title = "PickScore"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip
        self.range = (-clip.logit_scale, clip.logit_scale)

    def value(self, case: Case) -> float | None:
        return self.clip.logit_scale * self.clip.likeness(case)


class FrameLikeness(PerCase):
    """100 times the `likeness` of a video's frame embeddings [F, D]; None for a single frame."""

    better: Literal["higher", "lower"] = "higher"
    range = (-100.0, 100.0)

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def likeness(self, embeds_FD: torch.Tensor) -> torch.Tensor:
        """Similarity of at least two frames, in [-1, 1]."""
        raise NotImplementedError

    def value(self, case: Case) -> float | None:
        embeds_FD = self.clip.embed_frames(case.video_FHWC)
        return 100 * float(self.likeness(embeds_FD)) if len(embeds_FD) > 1 else None


class ClipConsistency(FrameLikeness):
    """Similarity of consecutive frames; higher is better, [-100, 100] (most videos above 90, 100 if frozen).

    `100 * mean_f cos(image(frame_f), image(frame_{f+1}))`: "background consistency" of VBench (arXiv
    2311.17982) without its comparison to the first frame. None for a single frame.
    """

    name = "clip_temporal_consistency"
    title = "temporal consistency (CLIP)"

    def likeness(self, embeds_FD: torch.Tensor) -> torch.Tensor:
        return (embeds_FD[1:] * embeds_FD[:-1]).sum(-1).mean()


class ClipFrameConsistency(FrameLikeness):
    """Similarity of all pairs of frames; higher is better, [-100, 100]; below `ClipConsistency` in motion.

    `100 * mean_{f != g} cos(image(frame_f), image(frame_g))`, as in the evaluation script of
    LOVEU-TGVE-2023. Compare this one, not `ClipConsistency`, with numbers published for that set. None
    for a single frame.
    """

    name = "clip_frame_consistency"
    title = "frame consistency (CLIP)"

    def likeness(self, embeds_FD: torch.Tensor) -> torch.Tensor:
        count = len(embeds_FD)
        return ((embeds_FD @ embeds_FD.T).sum() - count) / (count * (count - 1))


class ClipDiversity(PairDistance[torch.Tensor]):
    """Mean pairwise distance of the videos' CLIP embeddings; higher is more diverse, [0, 2].

    `1 - cos(v_i, v_j)` with v a video's mean frame embedding, averaged over the pairs of a group of
    cases with the same references. One value per group; None for a group of one.
    """

    name = "clip_diversity"
    title = "appearance diversity (CLIP)"
    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 2.0)

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def describe(self, video_FHWC: np.ndarray) -> torch.Tensor:
        return self.clip.embed_frames(video_FHWC).mean(0)

    @staticmethod
    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return 1 - float(torch.nn.functional.cosine_similarity(a, b, dim=0))
