"""Three choices in place of settings, around what the foundation recommends."""

from __future__ import annotations

from motiondirector.studio.teach.presets import presets

EMBEDDED = {
    "training": {
        "appearance_share": 0.25,
        "steps": 840,
        "generated_references": 16,
        "generated_share": 0.25,
        "generated_prompts": ["a"],
    }
}


def test_the_choices_surround_the_recommendation():
    quick, balanced, best = presets(EMBEDDED, 1, 10_000, 0.5)
    assert (quick.name, quick.hyperparameters) == ("quick", {"steps": 420, "generated_references": 0})
    assert (balanced.hyperparameters, balanced.steps, balanced.seconds) == ({}, 840, 420.0)
    assert (best.hyperparameters, best.steps) == ({"steps": 1680}, 1680)
    unmeasured = presets({}, 1, 10_000, None)
    assert [preset.seconds for preset in unmeasured] == [None] * 3
    assert unmeasured[0].hyperparameters == {"steps": 150}, "it makes no videos of its own anyway"


def test_several_clips_have_their_own_recommendation():
    recommended = {**EMBEDDED, "training_several_clips": {"steps": 1600}}
    assert [preset.steps for preset in presets(recommended, 2, 10_000, None)] == [800, 1600, 3200]


def test_no_choice_is_beyond_what_the_server_trains():
    two = presets(EMBEDDED, 1, 800, None)
    assert [(preset.name, preset.steps) for preset in two] == [("quick", 420), ("balanced", 800)]
    assert two[1].hyperparameters == {"steps": 800}
    (one,) = presets(EMBEDDED, 1, 20, None)
    assert one.hyperparameters == {"steps": 20, "generated_references": 0}
