"""CLIP's metrics on a tiny random CLIP, against the model called directly."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)

from datasets.sprites.motions import KNOWN
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from evaluation.metric import Case, Reference
from evaluation.metrics import metrics_for
from evaluation.metrics.clip_scores import (
    ClipConsistency,
    ClipDiversity,
    ClipFrameConsistency,
    ClipScorer,
    ClipTextAlignment,
    PickScore,
)
from infra.errors import UserError
from training.pretraining.tokenizer import write_tokenizer

PROMPTS = ["a red star moves to the right on a navy background", "a blue ring orbits"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = write_tokenizer(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **size,
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=8,
    )
    vision = CLIPVisionConfig(**size, image_size=32, patch_size=8, projection_dim=8)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def scorer(weights):
    return ClipScorer.load(str(weights), device="cpu")


@pytest.fixture(scope="module")
def cases():
    scenes = (
        Scene(Sprite("star", "red"), Background("navy")),
        Scene(Sprite("ring", "blue"), Background("beige")),
    )
    clips = [render_clip(scene, KNOWN["right"], size=48) for scene in scenes]
    return [Case(clip, prompt, 0) for clip, prompt in zip(clips, PROMPTS, strict=True)]


@pytest.fixture(scope="module")
def direct(weights, cases):
    """(model outputs) for each case: its frames and its prompt through CLIPModel.forward, preprocessed by hand."""
    from transformers import CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(weights).eval(), CLIPTokenizer.from_pretrained(weights)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    outputs = []
    for case in cases:
        small = [
            np.asarray(Image.fromarray(f).resize((32, 32), Image.Resampling.BICUBIC)) for f in case.video_FHWC
        ]
        pixels = torch.tensor((np.stack(small) / 255 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
        tokens = tokenizer([case.prompt], return_tensors="pt")
        with torch.no_grad():
            outputs.append(model(pixel_values=pixels, **tokens))
    return outputs


def test_text_alignment_is_a_hundred_times_the_mean_cosine(scorer, cases, direct):
    expected = [100 * float((o.image_embeds @ o.text_embeds.T).mean()) for o in direct]
    assert ClipTextAlignment(scorer)(cases).values == pytest.approx(expected, abs=1e-3)
    assert expected[0] != pytest.approx(expected[1], abs=0.1)


def test_pickscore_is_the_mean_logit(scorer, cases, direct):
    expected = [float(o.logits_per_image.mean()) for o in direct]
    assert PickScore(scorer)(cases).values == pytest.approx(expected, abs=1e-3)
    low, high = PickScore(scorer).range
    assert low < min(expected)
    assert max(expected) < high


def test_consistency_is_the_mean_cosine_of_neighbours(scorer, cases, direct):
    expected = [100 * float((o.image_embeds[1:] * o.image_embeds[:-1]).sum(-1).mean()) for o in direct]
    assert ClipConsistency(scorer)(cases).values == pytest.approx(expected, abs=1e-3)
    frozen = Case(np.repeat(cases[0].video_FHWC[:1], 4, axis=0), "", 0)
    assert ClipConsistency(scorer)([frozen]).values == (pytest.approx(100),)
    assert ClipConsistency(scorer)([Case(cases[0].video_FHWC[:1], "", 0)]).values == (None,)


def test_frame_consistency_is_the_mean_cosine_of_all_pairs(scorer, cases, direct):
    pairs = [torch.combinations(torch.arange(len(o.image_embeds))).T for o in direct]
    cosines = [
        (o.image_embeds[f] * o.image_embeds[g]).sum(-1) for o, (f, g) in zip(direct, pairs, strict=True)
    ]
    expected = [100 * float(found.mean()) for found in cosines]
    assert ClipFrameConsistency(scorer)(cases).values == pytest.approx(expected, abs=1e-3)
    frozen = Case(np.repeat(cases[0].video_FHWC[:1], 4, axis=0), "", 0)
    assert ClipFrameConsistency(scorer)([frozen]).values == (pytest.approx(100, abs=1e-3),)
    assert ClipFrameConsistency(scorer)([Case(cases[0].video_FHWC[:1], "", 0)]).values == (None,)


def test_diversity_is_one_minus_the_cosine_of_mean_embeddings(scorer, cases, direct):
    a, b = (o.image_embeds.mean(0) for o in direct)
    expected = 1 - float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    assert ClipDiversity(scorer)(cases).values == (pytest.approx(expected, abs=1e-5),)
    assert ClipDiversity(scorer)([cases[0], cases[0]]).values == (pytest.approx(0, abs=1e-6),)
    apart = Case(cases[1].video_FHWC, "", 0, (Reference(cases[0].video_FHWC, ""),))
    assert ClipDiversity(scorer)([cases[0], apart]).values == (None, None)


def test_a_prompt_longer_than_the_text_tower_is_cut(scorer, cases):
    long = Case(cases[0].video_FHWC, "a red star " * 40, 0)
    assert ClipTextAlignment(scorer)([long]).mean is not None


def test_frames_are_embedded_once_for_all_metrics(weights, cases, monkeypatch):
    metrics = metrics_for(True, clip=str(weights), pickscore=str(weights), device="cpu")
    clip = [m for m in metrics if hasattr(m, "clip")]
    assert [m.name for m in clip] == [
        "clip_text_alignment", "clip_temporal_consistency", "clip_frame_consistency", "clip_diversity", "pickscore",
    ]  # fmt: skip
    model, frames = clip[0].clip.model, []
    whole = model.get_image_features
    monkeypatch.setattr(
        model, "get_image_features", lambda **k: frames.append(len(k["pixel_values"])) or whole(**k)
    )
    for metric in clip:
        metric(cases)
    assert sum(frames) == sum(len(case.video_FHWC) for case in cases)


def test_without_weights_there_is_one_sentence_and_no_number(weights, tmp_path):
    with pytest.raises(UserError, match="CLIP needs weights, but none were given; give a folder"):
        ClipScorer.load(None)
    with pytest.raises(UserError, match="cannot be loaded as a CLIPModel"):
        ClipScorer.load(str(tmp_path), what="PickScore")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in weights.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save(CLIPModel.from_pretrained(weights).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="from safetensors"):  # a pickle could run anything
        ClipScorer.load(str(pickled))


def test_weights_with_holes_or_damage_are_refused(weights, tmp_path):
    """transformers fills holes with random numbers; a score from those would be made up."""
    for name, damage in (
        ("holes", "are missing, such as visual_projection.weight"),
        ("cut", "cannot be loaded"),
    ):
        folder = tmp_path / name
        shutil.copytree(weights, folder)
        file = folder / "model.safetensors"
        if name == "holes":
            tensors = load_file(file)
            del tensors["visual_projection.weight"]
            save_file(tensors, file, metadata={"format": "pt"})
        else:
            file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(UserError, match=damage):
            ClipScorer.load(str(folder))


def test_a_hub_id_that_cannot_be_had_is_said_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="CLIP weights 'nobody/no-such-clip' cannot be loaded"):
        ClipScorer.load("nobody/no-such-clip")
