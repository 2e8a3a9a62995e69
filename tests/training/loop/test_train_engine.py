"""DeepSpeed's engine against plain torch, and ZeRO 0 to 3 against each other, on one and on two processes."""

import json
import os
from pathlib import Path

import pytest
from training_helpers import masked, random_clips, solo

from infra.errors import UserError
from training.loop.checkpoint import MemberState

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run_workers(warm):
    """run_workers(folder, workers, {"dual": [0, 1]}): what each rank reports, by method and ZeRO stage."""

    def run(folder, workers, asked, clips=2):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        environment |= {"OMP_NUM_THREADS": "1"}
        command = [str(HERE / "zero_worker.py")]
        rest = [str(workers), str(folder / "rendezvous"), json.dumps(asked), str(clips), str(folder)]
        processes = [
            warm.start([*command, str(rank), *rest], cwd=HERE, env={**environment, "LOCAL_RANK": str(rank)})
            for rank in range(workers)
        ]
        results = []
        try:
            for process in processes:
                assert process.wait() == 0, process.errors[-3000:]
                told = json.loads(process.output.split("RESULT ")[-1])
                results.append({m: {int(k): v for k, v in told[m].items()} for m in asked})
        finally:
            for process in processes:
                process.kill()
        return results

    return run


@pytest.fixture(scope="module")
def one(run_workers, tmp_path_factory):
    """Of one process: {method: {ZeRO stage: what came out}}."""
    asked = {"dual": [0], "masked": [0], "full": [0, 1, 2, 3], "appearance": [0, 3]}
    (told,) = run_workers(tmp_path_factory.mktemp("one"), 1, asked)
    return told


@pytest.fixture(scope="module")
def two_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def both(run_workers, two_folder):
    # int8 first: a process that was at ZeRO 3 has DeepSpeed's own linear function, which takes plain weights only.
    return run_workers(two_folder, 2, {"int8": [0, 1, 2], "dual": [0, 1, 2, 3]})


@pytest.fixture(scope="module")
def two(both):
    return [told["dual"] for told in both]


def test_zero_0_on_one_worker_is_plain_torch_bit_for_bit(one, unet3d):
    from zero_worker import digest

    with solo(unet3d, random_clips(unet3d, 2), steps=4, gradient_accumulation=2) as run:
        assert one["dual"][0]["losses"] == [report.loss for report in run.train()]
        assert one["dual"][0]["digest"] == digest(run)


def test_weights_of_masks_reach_deepspeed(one, unet3d):
    from zero_worker import MASKED, digest

    clips = masked(random_clips(unet3d, 2), unet3d)
    with solo(unet3d, clips, steps=4, gradient_accumulation=2, **MASKED) as run:
        assert one["masked"][0]["losses"] == [report.loss for report in run.train()]
        assert one["masked"][0]["digest"] == digest(run) != one["dual"][0]["digest"]


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_every_zero_stage_gives_the_same_losses(two, zero):
    for results in two:
        assert results[zero]["losses"] == pytest.approx(results[0]["losses"], rel=1e-5)
        assert results[zero]["norm"] == pytest.approx(results[0]["norm"], rel=1e-5)


def test_at_zero_3_no_device_is_given_the_whole_base(two, unet3d):
    whole = sum(parameter.numel() for parameter in unet3d.denoiser.parameters())
    for results in two:
        assert [results[zero]["handed"] for zero in (0, 1, 2, 3)] == [whole, whole, whole, 0]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_all_ranks_hold_the_same_adapters_though_they_look_at_different_clips(two, zero):
    assert two[0][zero]["digest"] == two[1][zero]["digest"]
    assert two[0][zero]["losses"] == two[1][zero]["losses"]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_zero_stage_continues_to_the_same_bits(two, zero):
    for results in two:
        assert results[zero]["continued"] == results[zero]["losses"][2:]
        assert results[zero]["continued_digest"] == results[zero]["digest"]


def test_at_zero_0_another_number_of_workers_continues(two, two_folder, unet3d):
    # One worker that accumulates twice as often looks at the same samples as two: so the losses must agree.
    state = MemberState.read(two_folder / "dual0")
    assert state.position["workers"] == 2
    state.check_workers(zero=0, workers=1)
    with solo(unet3d, random_clips(unet3d, 2), state, steps=4, gradient_accumulation=4) as run:
        losses = [report.loss for report in run.train()]
    assert losses == pytest.approx(two[0][0]["losses"][2:], rel=1e-4)


def test_at_zero_1_to_3_another_number_of_workers_is_refused(two, two_folder):
    with pytest.raises(UserError, match=r"2 workers at ZeRO stage 2, so 1 .*--workers 2"):
        MemberState.read(two_folder / "dual2").check_workers(zero=2, workers=1)


@pytest.mark.parametrize(("method", "stages"), [("full", [0, 1, 2, 3]), ("appearance", [0, 3])])
def test_one_pass_alone_is_trained_and_continued_at_every_zero_stage(one, unet3d, method, stages):
    results = one[method]
    assert sorted(results) == stages
    with solo(unet3d, random_clips(unet3d, 2), steps=4, gradient_accumulation=2, method=method) as run:
        losses = [report.loss for report in run.train()]
    assert results[0]["losses"] == losses
    for found in results.values():
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        assert found["continued"] == found["losses"][2:]
        assert found["continued_digest"] == found["digest"]


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_adapters_train_on_an_int8_base_as_on_a_plain_one(both, zero):
    for told in both:
        found = told["int8"][zero]
        assert found["losses"] == pytest.approx(told["dual"][zero]["losses"], rel=0.01)
        assert found["losses"] != told["dual"][zero]["losses"], "the base is quantized"
        assert found["continued_digest"] == found["digest"]
    assert both[0]["int8"][zero]["digest"] == both[1]["int8"][zero]["digest"]
