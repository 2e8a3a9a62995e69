"""Generated references: a run makes videos of its motion in other looks and learns from them, too."""

from dataclasses import replace

import pytest
import torch
from training_helpers import BUCKETS, SMALL, random_clips

from datasets.clip_sets.latents import text_of
from infra.errors import UserError
from models.denoise import Denoising, denoise_step
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation
from models.seeds import stable_seed
from training.config import make_config
from training.loop.checkpoint import GENERATED, MemberState
from training.loop.draws import Place
from training.loop.generated import ACTS, draw_generated, look_of_each
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Pack
from training.runs.local import train_local

PROMPTS = ("a blue heart on a mint background", "a red star", "a green moon at night")
SETTINGS = {
    "steps": 8,
    "appearance_share": 0.25,
    "appearance_tokens": 2,
    "appearance_preservation": 1.0,
    "caption_dropout": 0.3,
    "generated_references": 4,
    "generated_share": 0.375,
    "generated_prompts": PROMPTS,
}


@pytest.fixture(scope="module", params=["unet3d", "wan"])
def foundation(request):
    return load_foundation(f"tiny-random:{request.param}", device="cpu", dtype="float32")


def config_for(foundation, **settings):
    bucket = BUCKETS[foundation.family]
    size = {"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
    return make_config({**SMALL, **size, **SETTINGS, **settings})


def member(foundation, number=0, **settings):
    config = config_for(foundation, seed=number, **settings)
    texts = tuple(text_of(prompt, foundation) for prompt in config.looks)
    clips = [replace(clip, look_texts=texts) for clip in random_clips(foundation, 1 + number, seed=number)]
    return Member(f"m{number}", f"concept-{number}", config, clips)


def pack_for(foundation, members):
    key = group_key(foundation.fingerprint, members[0].config)
    return Pack(foundation, key, Capacity(len(members), sum(len(one.clips) for one in members)))


def run(pack):
    ended = {}
    while pack.members:
        ended |= {event.name: event.tensors for event in pack.step() if isinstance(event, Ended)}
    return ended


def flat(tensors):
    return torch.cat(
        [t.flatten().double() for layers in tensors.values() for ab in layers.values() for t in ab]
    )


def difference(one, other):
    return float((flat(one) - flat(other)).norm() / flat(one).norm())


def test_they_are_the_videos_of_the_adapter_in_the_looks_prompts(foundation):
    one = member(foundation)
    with pack_for(foundation, [one]) as pack:
        pack.admit(one)
        for _ in range(5):
            pack.step()
        assert GENERATED not in pack.state("m0").tensors  # only when the steps that need them begin
        found = one.generate(foundation, 1)
        order = look_of_each(one.config, one.concept, one.config.looks)
        for number in (0, 3):
            made = Denoising(
                foundation,
                GenerationParams(
                    prompt=order[number],
                    negative_prompt="",
                    seed=stable_seed(one.config.seed, one.concept, "generated", number),
                    frames=one.config.frames,
                    height=one.config.height,
                    width=one.config.width,
                    adapters=(SlotUse(path="temporal", slot=1, steps=ACTS),),
                ),
            )
            made.begin_at(round(len(made.timesteps) / 6), one.clips[0].latents_CFHW)
            while not made.done:
                denoise_step(foundation, [made])
            torch.testing.assert_close(found[number], made.latents_1Cfhw[0], atol=1e-4, rtol=1e-4)
        pack.step()
        assert torch.equal(pack.state("m0").tensors[GENERATED], found)


def test_in_a_pack_and_after_a_kill_the_adapter_is_the_one_trained_alone(foundation):
    members = [member(foundation, number) for number in range(2)]
    with pack_for(foundation, members) as pack:
        for one in members:
            pack.admit(one)
        for _ in range(6):
            pack.step()
        states = {name: MemberState.decode(pack.state(name).encode()) for name in pack.members}
        whole = run(pack)
    with pack_for(foundation, members) as again:
        for one in members:
            again.admit(one, states[one.name])
        rest = run(again)
    for one in members:
        alone = train_local(foundation, one.concept, one.clips, one.config)
        assert torch.equal(flat(whole[one.name]), flat(rest[one.name]))
        assert difference(alone, whole[one.name]) < 2e-4  # rounding, also of the generated latents


def test_only_the_last_steps_differ_from_a_training_without_them(foundation):
    def after(steps, **settings):
        one = member(foundation, **settings)
        with pack_for(foundation, [one]) as pack:
            pack.admit(one)
            for _ in range(steps):
                pack.step()
            return flat(pack.tensors("m0"))

    without = {"generated_references": 0, "generated_share": 0.0, "generated_prompts": ()}
    assert torch.equal(after(5), after(5, **without))
    assert not torch.equal(after(6), after(6, **without))


def test_three_quarters_of_the_last_steps_samples_are_generated_references(foundation):
    config = config_for(foundation, steps=4000)
    first = config.steps - config.generated_steps
    drawn = [draw_generated(config, "c", step, 0, 4) for step in range(first, config.steps)]
    assert sum(one is not None for one in drawn) / len(drawn) == pytest.approx(0.75, abs=0.04)
    assert set(drawn) == {None, 0, 1, 2, 3}
    assert draw_generated(config, "c", first - 1, 0, 4) is None
    one = member(foundation, steps=40)
    latents = torch.randn(4, *one.clips[0].latents_CFHW.shape)
    for step in range(40 - one.config.generated_steps, 40):
        made, sample = (
            draw_generated(one.config, one.concept, step, 0, 4),
            one.sample(step, 0, Place(), None, latents),
        )
        assert sample.spatial_slot == (1 if made is None else 0)
        expected = latents[made] if made is not None else one.clips[0].latents_CFHW
        assert torch.equal(sample.clip.latents_CFHW, expected)
        text = one.look_texts[made] if made is not None else one.clips[0].text_LD
        assert torch.equal(sample.clip.text_LD, text)


def test_a_few_steps_generate_nothing_and_the_rate_falls_to_0_over_the_last_ones(foundation):
    assert config_for(foundation, steps=2, appearance_share=0.5).generated_steps == 0
    one = member(foundation, steps=80)
    assert one.config.generated_steps == 30
    assert [one.factor(step) for step in (0, 49, 50, 65, 79)] == pytest.approx([1, 1, 1, 0.5, 1 / 30])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"generated_prompts": ()}, "needs generated_prompts"),
        ({"generated_share": 0.0}, "needs generated_share above 0"),
        ({"appearance_share": 0.0}, "appearance_share above 0"),
        ({"appearance_share": 0.7}, "below 1 together"),
        ({"zero": 3}, "zero 3 spreads it"),
        ({"method": "coupled"}, "method coupled has no spatial pass"),
    ],
)
def test_what_cannot_be_is_one_sentence(settings, words):
    with pytest.raises(UserError) as caught:
        make_config({**SMALL, **SETTINGS, **settings})
    assert words in caught.value.message
