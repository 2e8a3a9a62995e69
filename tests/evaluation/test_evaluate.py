"""Contenders on equal terms: the same prompts and seeds, the frames of `generate`, and nothing made twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_helpers import FOUNDATION, Brightness, Spread, Unmeasurable, adapters_of, sprite_references

import evaluation.evaluate as core
from evaluation.evaluate import Contender, Generation, OpenSet, evaluate
from evaluation.metric import Score
from evaluation.metrics import OpenMetrics, open_metrics_for
from evaluation.metrics.trajectories import MotionFidelity, reference_ceiling
from evaluation.page import write_page
from evaluation.report import (
    Cell,
    as_json,
    half_width,
    mark_best,
    published_scores,
    remarks,
    rows,
    write_json,
)
from evaluation.store import Store
from infra.errors import UserError
from models.denoise import sample
from models.foundations.base import Bucket
from models.generation import AdapterSettings, GenerationParams, GenerationSettings, SlotUse
from models.load import load_foundation
from models.lora.slots import with_identity

PROMPTS = ["a red star on a <b>navy</b> background", "a green heart"]
SMALL = Generation(GenerationSettings(steps=2), bucket=Bucket(4, 32, 32))
ONE_EACH = replace(SMALL, batch_size=1)  # a video alone rounds otherwise than one among others


@pytest.fixture(scope="module")
def foundation():
    return load_foundation(FOUNDATION, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def contenders(foundation):
    return [
        Contender("ours", "orbit@1", adapters_of(foundation, 1)),
        Contender("base", "no adapter"),
        Contender("coupled", "both paths", adapters_of(foundation, 2, ("spatial", "temporal"))),
    ]


def run(foundation, contenders, metrics=None, generation=SMALL, **more):
    metrics = [Brightness(), Spread(), Unmeasurable()] if metrics is None else metrics
    return evaluate(
        foundation, contenders, PROMPTS, [1, 2], sprite_references(), metrics, generation=generation, **more
    )


@pytest.fixture(scope="module")
def report(foundation, contenders):
    return run(foundation, contenders)


def test_every_contender_gets_the_same_prompts_seeds_and_references(report):
    asked = [(case.prompt, case.seed) for case in report.cases["ours"]]
    assert asked == [(prompt, seed) for prompt in PROMPTS for seed in (1, 2)]
    for cases in report.cases.values():
        assert [(case.prompt, case.seed) for case in cases] == asked
        assert all(len(case.references) == 2 for case in cases)


def test_the_frames_are_those_of_generate(foundation, contenders, report):
    bank = foundation.add_bank({"temporal": 1}, 2)
    bank.write("temporal", 1, contenders[0].adapters["temporal"])
    request = GenerationParams(
        prompt=PROMPTS[1],
        seed=2,
        frames=4,
        height=32,
        width=32,
        steps=2,
        adapters=(SlotUse(path="temporal", slot=1),),
    )
    assert (
        np.abs(sample(foundation, [request])[0].astype(int) - report.cases["ours"][3].video_FHWC).max() <= 1
    )
    assert not np.array_equal(report.cases["ours"][3].video_FHWC, report.cases["base"][3].video_FHWC)
    assert not np.array_equal(report.cases["ours"][3].video_FHWC, report.cases["coupled"][3].video_FHWC)


def test_the_same_inputs_give_the_same_report(foundation, contenders, report):
    assert as_json(run(foundation, contenders)) == as_json(report)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_report(
    foundation, contenders, report, tmp_path, monkeypatch
):
    made = []
    real = core.sample

    def sample_until_stopped(foundation, requests, **settings):
        if len(made) == 7:
            raise KeyboardInterrupt
        made.extend(requests)
        return real(foundation, requests, **settings)

    monkeypatch.setattr(core, "sample", sample_until_stopped)
    store = Store(tmp_path)

    def go():
        return evaluate(
            foundation, contenders, PROMPTS, [1, 2], sprite_references(), [Brightness()],
            generation=ONE_EACH, store=store,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        go()
    made.append(None)  # past the stop
    again = go()
    assert len(made) == 12 + 1
    go()
    assert len(made) == 12 + 1
    assert again.score("brightness", "coupled").values == pytest.approx(
        report.score("brightness", "coupled").values, abs=1e-3
    )


def test_a_damaged_video_is_made_again(foundation, contenders, tmp_path, caplog):
    store = Store(tmp_path)
    first = run(foundation, contenders[1:2], generation=ONE_EACH, store=store)
    file = sorted((tmp_path / "videos").iterdir())[0]
    file.write_bytes(file.read_bytes()[:100])
    again = run(foundation, contenders[1:2], generation=ONE_EACH, store=store)
    assert as_json(again) == as_json(first)
    assert "damaged" in caplog.text


def test_another_scale_is_another_video_but_not_of_the_base(foundation, contenders, report, tmp_path):
    half = replace(SMALL, adapters=AdapterSettings(scale=0.5))
    weak = evaluate(foundation, contenders, PROMPTS, [1, 2], [], [], generation=half, store=Store(tmp_path))
    assert not np.array_equal(weak.cases["ours"][0].video_FHWC, report.cases["ours"][0].video_FHWC)
    assert np.array_equal(weak.cases["base"][0].video_FHWC, report.cases["base"][0].video_FHWC)
    run(foundation, contenders[1:2], store=Store(tmp_path))
    assert len(list((tmp_path / "videos").iterdir())) == 12


def test_videos_are_kept_under_the_words_of_before_there_were_more_settings(foundation):
    usual = foundation.defaults
    before = {
        "num_inference_steps": 2,
        "guidance_scale": usual.guidance_scale,
        "scale": 1.0,
        "size": "4x32x32",
        "negative_prompt": usual.negative_prompt,
    }
    assert SMALL.resolved(foundation).facts() == before
    half = replace(SMALL, adapters=AdapterSettings(steps=(0, 0.5), region={"box": (0, 0, 0.5, 1)}))
    assert half.resolved(foundation).facts() == {
        **before,
        "adapter_steps": [0.0, 0.5],
        "adapter_region": {"box": [0.0, 0.0, 0.5, 1.0]},
    }


def test_what_a_video_stays_away_from_makes_another_video(foundation, contenders, report, tmp_path):
    plain = SMALL.resolved(foundation)
    assert plain.facts()["negative_prompt"] == foundation.defaults.negative_prompt
    away = replace(SMALL, settings=GenerationSettings(steps=2, negative_prompt="a blue cross"))
    assert away.resolved(foundation).facts() != plain.facts()
    store = Store(tmp_path)
    run(foundation, contenders[1:2], metrics=[], store=store)
    found = evaluate(foundation, contenders[1:2], PROMPTS, [1, 2], [], [], generation=away, store=store)
    assert len(list((tmp_path / "videos").iterdir())) == 8
    assert not np.array_equal(found.cases["base"][0].video_FHWC, report.cases["base"][0].video_FHWC)


def test_adapters_come_back_from_the_store_as_they_went_in(foundation, contenders, tmp_path):
    store = Store(tmp_path)
    assert store.adapters("k") is None
    given = contenders[2].adapters
    store.put_adapters("k", given)
    found = store.adapters("k")
    assert set(found) == {"spatial", "temporal"}
    for path in given:
        assert set(found[path]) == set(given[path])
        for name, pair in given[path].items():
            assert all((a == b).all() for a, b in zip(found[path][name], pair, strict=True))


def test_layers_changed_whole_are_kept_without_their_identities_and_generate(foundation, tmp_path):
    whole = {}
    for number, name in enumerate(foundation.targets["temporal"]):
        weight = foundation.denoiser.get_submodule(name).weight
        change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.1
        whole[name] = with_identity(change)
    store = Store(tmp_path)
    store.put_adapters("k", {"temporal": whole})
    sizes = sum(b.numel() for _, b in whole.values()) * 4
    assert (tmp_path / "adapters" / "k.safetensors").stat().st_size < 1.1 * sizes + 50_000
    found = store.adapters("k")
    assert all(
        (a == b).all() for name in whole for a, b in zip(found["temporal"][name], whole[name], strict=True)
    )
    full = run(foundation, [Contender("full", "whole layers", found), Contender("base", "none")])
    assert full.score("brightness", "full").values != full.score("brightness", "base").values


def test_the_table_marks_the_best_by_each_metrics_direction(report):
    table = {row.metric: row for row in rows(as_json(report))}
    means = [round(report.score("brightness", name).mean, 3) for name in ("ours", "base", "coupled")]
    assert [cell.best for cell in table["brightness"].cells] == [mean == max(means) for mean in means]
    spreads = [round(report.score("spread", name).mean, 2) for name in ("ours", "base", "coupled")]
    assert [cell.best for cell in table["spread"].cells] == [mean == min(spreads) for mean in spreads]
    assert table["spread"].arrow == "↓"
    assert [cell.text for cell in table["nothing"].cells] == ["–"] * 3
    assert not table["nothing"].measured


def test_agreement_with_the_references_is_told_beside_their_own_with_one_another(foundation, contenders):
    metrics = [MotionFidelity(), Brightness()]
    told = as_json(run(foundation, contenders[1:2], metrics))
    ceiling = told["metrics"]["motion_fidelity"]["ceiling"]
    assert ceiling == reference_ceiling(sprite_references())
    assert f"The reference clips score {ceiling:.3f} against one another in motion fidelity." in remarks(told)
    assert told["metrics"]["brightness"]["ceiling"] is None
    alone = evaluate(
        foundation, contenders[1:2], PROMPTS, [1], sprite_references()[:1], metrics, generation=SMALL
    )
    assert "against one another" not in remarks(as_json(alone))


def test_where_all_are_equal_none_is_the_best():
    equal = [Cell(0.5, None, 3), Cell(0.5001, None, 3), Cell(None, None, 0)]
    assert not any(cell.best for cell in mark_best(equal, "higher"))
    assert [cell.best for cell in mark_best([*equal, Cell(0.4, None, 3)], "lower")] == [
        False,
        False,
        False,
        True,
    ]


def test_the_interval_is_over_prompts_each_prompts_seeds_averaged_first(report):
    values = report.score("brightness", "ours").values
    means = [np.mean(values[:2]), np.mean(values[2:])]
    cell = next(row for row in rows(as_json(report)) if row.metric == "brightness").cells[0]
    assert cell.half == pytest.approx(12.706 * np.std(means, ddof=1) / np.sqrt(2), rel=1e-3)
    assert half_width([1.0]) is None
    assert half_width([1.0, 1.0, 1.0]) == 0.0


def test_the_json_holds_every_value_and_what_is_published_the_means(report, tmp_path):
    told = as_json(report, title="orbit@1", data_sha256="d")
    write_json(told, tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["metrics"]["brightness"]["scores"]["ours"]["values"] == list(
        report.score("brightness", "ours").values
    )
    assert read["contenders"]["base"]["adapters_sha256"] is None
    published = published_scores(read)
    assert set(published["metrics"]) == {"brightness", "spread", "nothing"}
    assert published["metrics"]["nothing"]["scores"]["base"] == {"mean": None, "ci95": None, "count": 0}
    assert published["seeds"] == [1, 2]
    assert "values" not in json.dumps(published)
    assert [[c.text for c in row.cells] for row in rows(published)] == [
        [c.text for c in row.cells] for row in rows(read)
    ]


def test_the_page_is_one_file_with_every_contender_and_escapes_what_users_wrote(report, tmp_path):
    told = as_json(report, title="orbit@1 <evaluated>", notes=["a note"])
    text = write_page(report, told, tmp_path / "index.html", fps=8, sprites=True).read_text()
    assert "<b>navy</b>" not in text
    assert "&lt;b&gt;navy&lt;/b&gt;" in text
    assert text.count('class="clip"') == 2 + 2 * 3
    assert "http://" not in text
    assert "https://" not in text
    assert "a note" in text
    assert "spread [of seeds]" in text
    assert "Not measurable here: nothing." in text
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


class Brighter:
    """How much brighter than the base's a video is."""

    name, title, better, range = "brighter", "brighter, on average", "higher", (-1.0, 1.0)

    def __call__(self, cases, base):
        assert [(c.prompt, c.seed) for c in cases] == [(c.prompt, c.seed) for c in base]
        ours, theirs = (Brightness()(of).values for of in (cases, base))
        return Score(self.name, tuple(a - b for a, b in zip(ours, theirs, strict=True)))


OPENED = OpenSet(("a heart", "a moon", "a ring"), OpenMetrics((Brightness(),), (Brighter(),)))


def test_open_prompts_are_asked_of_every_contender_and_compared_with_the_base(
    foundation, contenders, report, tmp_path
):
    found = run(foundation, contenders, opened=OPENED)
    assert [m.name for m in found.measured] == [
        *(m.name for m in report.measured),
        "open_brightness",
        "open_brighter",
    ]
    assert found.score("brightness", "ours").values == report.score("brightness", "ours").values
    asked = [(prompt, seed) for prompt in OPENED.prompts for seed in (1, 2)]
    for cases in found.open_cases.values():
        assert [(case.prompt, case.seed) for case in cases] == asked
    ours, base = (found.score("open_brightness", name).values for name in ("ours", "base"))
    assert found.score("open_brighter", "ours").values == tuple(np.subtract(ours, base))
    assert found.score("open_brighter", "base").values == (0.0,) * 6
    assert any(found.score("open_brighter", "ours").values)

    told = as_json(found, title="orbit@1")
    assert told["open_prompts"] == list(OPENED.prompts)
    score = told["metrics"]["open_brighter"]["scores"]["ours"]
    means = np.subtract(ours, base).reshape(3, 2).mean(1)
    assert score["ci95"] == pytest.approx(half_width(list(means))), "over the open prompts"
    assert published_scores(told)["open_prompts"] == list(OPENED.prompts)
    text = write_page(found, told, tmp_path / "index.html", fps=8, sprites=True).read_text()
    assert text.count('class="clip"') == 2 + 2 * 3 + 3 * 3
    assert text.count("open prompts: brighter, on average") == 1, (
        "in the table, not among the values of other prompts"
    )


def test_the_base_is_compared_with_where_it_is_no_contender_and_its_videos_may_be_kept_apart(
    foundation, contenders, tmp_path, monkeypatch
):
    both = run(foundation, contenders[:2], opened=OPENED)
    one = run(
        foundation,
        contenders[:1],
        opened=OPENED,
        store=Store(tmp_path / "a"),
        base_store=Store(tmp_path / "b"),
    )
    assert one.score("open_brighter", "ours").values == both.score("open_brighter", "ours").values
    assert list(one.open_cases) == ["ours"]
    assert len(list((tmp_path / "a" / "videos").iterdir())) == 4 + 6
    assert len(list((tmp_path / "b" / "videos").iterdir())) == 6
    made = []
    monkeypatch.setattr(core, "sample", lambda foundation, requests, **_: made.extend(requests))
    run(
        foundation,
        contenders[:1],
        opened=OPENED,
        store=Store(tmp_path / "a"),
        base_store=Store(tmp_path / "b"),
    )
    assert made == []


def test_the_measures_of_open_prompts_are_told_of_sprites_and_of_other_clips(foundation, contenders):
    for sprites in (True, False):
        opened = OpenSet(("a heart",), open_metrics_for(sprites))
        found = run(foundation, contenders[:1], [], opened=opened)
        told = as_json(found)
        assert {"open_leakage", "open_diversity", "open_motion_fidelity"} <= set(told["metrics"])
        json.dumps(told, allow_nan=False)
        assert all(row.title.startswith("open prompts: ") for row in rows(told))


def test_nothing_to_do_and_two_of_a_name_are_one_sentence(foundation, contenders):
    with pytest.raises(UserError, match="at least one"):
        evaluate(foundation, contenders, [], [1], [], [])
    with pytest.raises(UserError, match="give each contender its own name"):
        run(foundation, [contenders[1], contenders[1]])
