"""Settings: where each value comes from, what is refused and in which words."""

import pytest

from infra.errors import UserError
from training.config import LATER, TrainConfig, fixed_settings, make_config, sampled_paths
from training.recommended import resolve


def test_defaults_are_the_papers():
    config = TrainConfig()
    assert config.learning_rates() == {"spatial": 5e-4, "temporal": 5e-4}
    assert (config.adam_beta1, config.adam_beta2, config.schedule, config.batch_size) == (
        0.9,
        0.999,
        "constant",
        1,
    )
    assert (config.rank, config.dropout, config.beta) == (32, 0.1, 1.0)
    assert config.weight_decay_for(1) == 1e-2
    assert config.weight_decay_for(4) == 1e-4


def test_every_setting_says_why_and_where_it_is_shown():
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name
        assert field.json_schema_extra["panel"], name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": -5}, ["steps -5", "greater than or equal to 1"]),
        ({"steps": 0}, ["steps 0"]),
        ({"workers": 0}, ["workers 0", "at least 1"]),
        ({"workers": "4:2"}, ["workers 4:2", "max must be at least min"]),
        ({"workers": "many"}, ["workers many", "1:4"]),
        ({"learning_rate": -1}, ["learning-rate -1"]),
        ({"learning_rate": float("nan")}, ["learning-rate nan"]),
        ({"zero": 4}, ["zero 4"]),
        ({"rank": "big"}, ["rank big"]),
        ({"workers": "1:4", "zero": 2}, ["1:4", "elastic", "zero 0", "stage 2"]),
        ({"timestep_low": 0.9, "timestep_high": 0.5}, ["0.9", "0.5", "below"]),
        ({"noise_bias": 0}, ["noise-bias 0", "greater than 0"]),
        ({"noise_bias": 11}, ["noise-bias 11", "less than or equal to 10"]),
        ({"colour": 1}, ["unknown training setting 'colour'"]),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_a_wrong_setting_is_one_sentence(values, words):
    with pytest.raises(UserError) as caught:
        make_config(values)
    message = caught.value.message
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 700


def test_elastic_workers_are_allowed_without_zero():
    config = make_config({"workers": "1:4"})
    assert config.elastic
    assert config.worker_range == (1, 4)
    assert make_config({"workers": "3"}).worker_range == (3, 3)


def test_what_is_given_wins_over_the_foundations_recommendation_over_the_default():
    config = resolve({"learning_rate": 1e-3}, {"training": {"rank": 16, "learning_rate": 2e-3}})
    assert (config.learning_rate, config.rank, config.dropout) == (1e-3, 16, 0.1)
    assert resolve({}, {}).rank == 32


def test_a_concept_of_several_clips_has_a_recommendation_over_that_of_one():
    suited = {"training": {"rank": 16, "steps": 200}, "training_several_clips": {"steps": 400}}
    assert [resolve({}, suited, clips).steps for clips in (1, 2, 9)] == [200, 400, 400]
    assert resolve({}, suited, 4).rank == 16
    assert resolve({"steps": 7}, suited, 4).steps == 7


@pytest.mark.parametrize("method", ["coupled", "full"])
def test_a_recommendation_for_two_passes_is_not_held_against_a_method_of_one(method):
    suited = {"training": {"skip_spatial": 0.3, "rank": 16}}
    assert resolve({}, suited).skip_spatial == 0.3
    config = resolve({"method": method}, suited)
    assert (config.skip_spatial, config.rank) == (0.0, 16)
    with pytest.raises(UserError, match="no spatial pass"):
        resolve({"method": method, "skip_spatial": 0.3}, suited)


@pytest.mark.parametrize("training", [{"colour": 1}, ["rank"], 3, {"rank": -1}])
def test_a_broken_recommendation_is_named(training):
    with pytest.raises(UserError, match=r"recommended|rank"):
        resolve({}, {"training": training})
    with pytest.raises(UserError, match=r"recommended|rank"):
        resolve({}, {"training_several_clips": training}, 2)


def test_a_config_survives_its_own_dump():
    config = make_config({"steps": 7, "workers": "1:2", "sample_prompts": ["a", "b"]})
    assert make_config(config.model_dump(mode="json")) == config


def test_settings_added_later_do_not_change_the_hashes_of_earlier_trainings():
    assert not set(LATER) & set(fixed_settings(TrainConfig()))


def test_fixed_settings_tell_what_changes_the_adapter():
    base = fixed_settings(TrainConfig())
    assert base == fixed_settings(make_config({"max_failures": 9, "checkpoint_interval": 5}))
    for change in ({"rank": 16}, {"zero": 3}, {"workers": 2}):
        assert base != fixed_settings(make_config(change))


def test_a_method_without_an_appearance_stage_gets_the_steps_that_the_motion_has():
    suited = {
        "training": {
            "steps": 450, "appearance_share": 0.55, "appearance_tokens": 8, "spatial_lora": False, "beta": 0.0,
            "noise_bias": 0.5, "rank": 16, "acts_until": 0.5,
        }
    }  # fmt: skip
    ours = resolve({}, suited)
    assert (ours.appearance_steps, ours.appearance_tokens, ours.beta) == (248, 8, 0.0)
    assert ours.adapter_steps == (0.0, 0.5)
    assert [ours.stage_of(step) for step in (0, 247, 248, 449)] == ["appearance"] * 2 + ["motion"] * 2
    for method in ("coupled", "full"):
        other = resolve({"method": method}, suited)
        assert other.adapter_steps is None
        assert (other.steps, other.rank, other.noise_bias) == (202, 16, 0.5)
        assert {other.stage_of(step) for step in (0, 201)} == {"motion"}
    assert resolve({"method": "coupled", "steps": 30}, suited).steps == 30
    suited["training"] |= {
        "generated_references": 4,
        "generated_share": 0.2,
        "generated_prompts": ["a red star"],
    }
    assert resolve({}, suited).generated_steps == 90
    assert resolve({"method": "coupled"}, suited).steps == 450 - 248 - 90
    assert resolve({"method": "appearance"}, suited).steps == 248


DUAL = {
    "steps": 450, "appearance_share": 0.4, "appearance_tokens": 8, "spatial_lora": False, "beta": 0.0, "noise_bias": 0.5,
    "timestep_low": 0.2, "appearance_preservation": 1.0, "caption_dropout": 0.3, "rank": 16, "acts_until": 0.5,
    "learning_rate": 2e-3,
}  # fmt: skip


def test_the_appearance_alone_leaves_out_what_is_recommended_for_the_motion():
    config = resolve({"method": "appearance"}, {"training": DUAL})
    kept = {"steps": 180, "rank": 16, "learning_rate": 2e-3}
    assert config == make_config({"method": "appearance", **kept})
    assert {config.stage_of(step) for step in range(180)} == {"appearance"}
    assert config.adapter_steps is None
    assert sampled_paths(config) == ("spatial",)

    other = {"training": {**DUAL, "spatial_learning_rate": 1e-3}}
    assert resolve({"method": "appearance"}, other).learning_rates() == {"spatial": 1e-3, "temporal": 1e-3}
    own = {"training_appearance": {"steps": 40, "learning_rate": 3e-3}, "training_several_clips": {"rank": 4}}
    config = resolve({"method": "appearance", "learning_rate": 4e-3}, {**other, **own}, 2)
    assert (config.steps, config.rank, config.learning_rate) == (40, 4, 4e-3)
    assert resolve({}, {**other, **own}).steps == 450, "of no concern to other methods"
    with pytest.raises(UserError, match="under `training_appearance:`"):
        resolve({"method": "appearance"}, {"training_appearance": {"colour": 1}})


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        *(
            ({name: value}, f"method appearance learns no motion; leave {name} out")
            for name, value in {
                **DUAL,
                "skip_spatial": 0.2,
                "offset_noise": 0.1,
                "timestep_high": 0.9,
            }.items()
            if name not in ("steps", "rank", "learning_rate")
        ),
        (
            {"spatial_learning_rate": 1e-3},
            "give its rate as learning_rate, and leave spatial_learning_rate out",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_motion_is_refused_where_only_the_appearance_is_learned(setting, said):
    with pytest.raises(UserError, match=said):
        resolve({"method": "appearance", **setting}, {"training": DUAL})


def test_the_papers_own_setting_is_one_flag_away():
    suited = {
        "training": {
            "steps": 450, "appearance_share": 0.55, "appearance_tokens": 8, "spatial_lora": False, "beta": 0.0,
            "noise_bias": 0.5, "timestep_low": 0.2, "rank": 16,
        }
    }  # fmt: skip
    paper = resolve({"method": "motiondirector"}, suited)
    published = make_config({"method": "motiondirector", "skip_spatial": 0.2})
    own = {"steps": 202, "rank": 16}  # what belongs to a foundation
    assert paper == published.model_copy(update=own)
    assert (paper.beta, paper.timestep_low, paper.noise_bias, paper.spatial_lora) == (1.0, 0.0, 1.0, True)
    assert {paper.stage_of(step) for step in range(202)} == {"both"}


def test_one_step_is_left_for_the_motion():
    assert make_config({"steps": 1, "appearance_share": 0.9}).appearance_steps == 0
    assert make_config({"steps": 2, "appearance_share": 0.9}).appearance_steps == 1


def test_without_a_spatial_lora_the_appearance_needs_tokens():
    with pytest.raises(UserError, match="set some, such as 8"):
        make_config({"spatial_lora": False})
