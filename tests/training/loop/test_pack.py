"""Packs: each member's adapter is the one it would have alone, whoever trains beside it, comes, leaves or fails."""

import statistics
from dataclasses import replace
from functools import cache

import pytest
import torch
from training_helpers import BUCKETS, SMALL, random_clips

from infra.errors import UserError
from models.load import load_foundation
from training.config import make_config
from training.loop.checkpoint import MemberState
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Failed, Pack, Stepped
from training.runs.local import train_local

TOLERANCE = 2e-5  # rounding of larger products; one member of eight 1.26e-5 on one thread, the others below 4e-7 (docs/benchmarks.md)


@pytest.fixture(scope="module")
def unet():
    return load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def wan():
    return load_foundation("tiny-random:wan", device="cpu", dtype="float32")


def member(foundation, number, clips=1, **settings):
    bucket = BUCKETS[foundation.family]
    sizes = {"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
    config = make_config({**SMALL, "steps": 8, "learning_rate": 1e-3, "seed": number, **sizes, **settings})
    return Member(f"m{number}", f"concept-{number}", config, random_clips(foundation, clips, seed=number))


def pack_for(foundation, one, members, spatial=None):
    key = group_key(foundation.fingerprint, one.config)
    return Pack(foundation, key, Capacity(members, spatial or 2 * members))


def run(pack, *, on_event=lambda event: None):
    """Step until nobody is left. Returns what each ended with."""
    ended = {}
    while pack.members:
        for event in pack.step():
            on_event(event)
            if isinstance(event, Ended):
                ended[event.name] = event
    return ended


def flat(tensors):
    return torch.cat(
        [t.flatten().double() for layers in tensors.values() for ab in layers.values() for t in ab]
    )


def difference(one, other):
    """Norm of the difference of two adapters, relative to the adapter's."""
    return float((flat(one) - flat(other)).norm() / flat(one).norm())


def alone(foundation, one):
    losses = []
    tensors = train_local(
        foundation, one.concept, one.clips, one.config, on_step=lambda report: losses.append(report.loss)
    )
    return tensors, losses


# Three differ in all that members of a pack may differ in; the others are as they come.
OWN = {
    0: {"clips": 1},
    1: {
        "clips": 2,
        "schedule": "cosine",
        "warmup_steps": 3,
        "beta": 0.4,
        "timestep_low": 0.35,
        "noise_bias": 0.7,
        "skip_spatial": 0.4,
        "learning_rate": 2e-3,
        "spatial_learning_rate": 5e-4,
        "max_gradient_norm": 0.01,
    },
    5: {"appearance_share": 0.4, "appearance_frames": 2},
    7: {"method": "no-debias", "offset_noise": 0.1, "adam_beta2": 0.99, "weight_decay": 0.1, "steps": 6},
}


@pytest.fixture(scope="module")
def expected(unet):
    """(tensors, losses) of a member trained alone, by its number."""
    return cache(lambda number: alone(unet, member(unet, number, **OWN.get(number, {}))))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_an_adapter_trained_in_a_pack_is_the_one_trained_alone(unet, expected, size):
    numbers = [0, 1, 7, *range(2, 7)][:size]
    members = [member(unet, number, **OWN.get(number, {})) for number in numbers]
    losses = {one.name: [] for one in members}
    with pack_for(unet, members[0], size) as pack:
        for one in members:
            pack.admit(one)
        ended = run(pack, on_event=lambda event: losses[event.name].append(event.report.loss))
    assert unet.bank is None
    found = []
    for number in numbers:
        tensors, its_losses = expected(number)
        found.append(difference(tensors, ended[f"m{number}"].tensors))
        assert losses[f"m{number}"] == pytest.approx(its_losses, rel=TOLERANCE)
        if size == 1:
            assert torch.equal(flat(tensors), flat(ended[f"m{number}"].tensors))
    # AdamW's first steps divide by gradients near zero, which magnifies rounding in one draw more than in another.
    assert statistics.median(found) < 1e-5, found
    assert max(found) < TOLERANCE, found


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dual"},
        {"method": "dual", "appearance_preservation": 1.0, "caption_dropout": 0.5},
        {"method": "coupled"},
        {"method": "full"},
        {"method": "appearance"},
    ],
)
def test_so_it_is_with_a_family_without_separate_layers_and_every_method(wan, settings):
    members = [
        member(wan, number, clips=2, batch_size=1 + number, gradient_accumulation=2, steps=8, **settings)
        for number in range(2)
    ]
    with pack_for(wan, members[0], 2, spatial=4) as pack:
        for one in members:
            pack.admit(one)
        ended = run(pack)
    for one in members:
        assert difference(alone(wan, one)[0], ended[one.name].tensors) < TOLERANCE


@pytest.mark.parametrize("method", ["dual", "appearance"])
def test_members_leave_when_they_are_done_and_others_take_their_slots(wan, method):
    waiting = [
        member(wan, number, clips=1 + number % 2, steps=4 + 3 * number, method=method) for number in range(5)
    ]
    order, ended, most = list(waiting), {}, 0
    with pack_for(wan, order[0], 2, spatial=2 if method == "appearance" else 3) as pack:
        while waiting or pack.members:
            while waiting and pack.has_room(waiting[0].slots()):
                pack.admit(waiting.pop(0))
            most = max(most, len(pack.members))
            for event in pack.step():
                if isinstance(event, Ended):
                    assert event.report.step == event.report.steps
                    ended[event.name] = event.tensors
        assert not pack.engine.optimizer.state  # nothing of those who left is kept
    assert most == 2
    for one in order:
        assert difference(alone(wan, one)[0], ended[one.name]) < TOLERANCE


def test_a_member_that_diverges_is_let_go_and_its_neighbours_never_notice(wan):
    def train(spoilt):
        members = [member(wan, number, clips=2 if number == 1 else 1, steps=8) for number in range(3)]
        failed, seen = [], []
        with pack_for(wan, members[0], 3, spatial=4) as pack:
            for one in members:
                pack.admit(one)
            for _ in range(3):
                pack.step()
            if spoilt:
                for clip in members[1].clips:
                    clip.latents_CFHW.fill_(float("nan"))
            else:
                pack.leave("m1")

            def on_event(event):
                seen.append(event)
                failed.extend([event] if isinstance(event, Failed) else [])

            return run(pack, on_event=on_event), failed

    with_it, failed = train(spoilt=True)
    without, nobody = train(spoilt=False)
    assert nobody == []
    (event,) = failed
    assert (event.name, event.step) == ("m1", 3)
    assert "concept concept-1: the loss became nan at step 4" in event.error.message
    assert with_it.keys() == without.keys() == {"m0", "m2"}
    for name in with_it:
        assert flat(with_it[name].tensors).isfinite().all()
        assert difference(without[name].tensors, with_it[name].tensors) < TOLERANCE


def test_a_killed_pack_goes_on_from_its_members_states_with_the_same_numbers(wan):
    members = [
        member(wan, number, clips=1 + number, steps=8, schedule="linear", skip_spatial=0.3)
        for number in range(2)
    ]
    with pack_for(wan, members[0], 2, spatial=3) as pack:
        for one in members:
            pack.admit(one)
        for _ in range(3):
            pack.step()
        states = {name: pack.state(name) for name in pack.members}
        whole = run(pack)
    with pack_for(wan, members[0], 3, spatial=5) as other:
        other.admit(member(wan, 9, steps=1))  # so that they sit elsewhere than before
        for one in members:
            other.admit(one, MemberState.decode(states[one.name].encode()))
        other.step()
        assert other.members == ("m0", "m1")
        rest = run(other)
    for name, end in whole.items():
        assert states[name].step == 3
        assert difference(end.tensors, rest[name].tensors) < TOLERANCE
    with pack_for(wan, members[0], 2, spatial=3) as same:
        for one in members:
            same.admit(one, states[one.name])
        again = run(same)
    assert all(torch.equal(flat(end.tensors), flat(again[name].tensors)) for name, end in whole.items())


def test_who_does_not_belong_is_told_why(wan):
    one = member(wan, 0)
    with pack_for(wan, one, 2, spatial=2) as pack:
        pack.admit(one)
        spoilt = member(wan, 1)
        spoilt.clips[0].text_LD[0, 0] = float("inf")
        smaller = replace(spoilt, clips=[replace(spoilt.clips[0], latents_CFHW=torch.zeros(16, 1, 4, 4))])
        for wrong, words in (
            (one, "m0 is already in this pack"),
            (member(wan, 1, rank=8), "rank 8, not 4"),
            (member(wan, 1, dropout=0.0), r"dropout 0.0, not 0.1"),
            (member(wan, 1, method="full"), "forward full, not dual"),
            (member(wan, 1, clips=2), r"needs .*2.* slots, but only .* are free"),
            (spoilt, "clip 1 of concept-1 has NaN or infinite"),
            (smaller, r"clip 1 of concept-1 has latents \(16, 1, 4, 4\), expected"),
            (replace(one, name="x", clips=[]), "x has no clips"),
        ):
            with pytest.raises(UserError, match=words):
                pack.admit(wrong)
        assert pack.members == ("m0",)
        assert isinstance(pack.step()[0], Stepped)
    with pytest.raises(UserError, match="zero 0"):
        pack_for(wan, member(wan, 0, zero=3), 1)
