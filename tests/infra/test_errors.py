"""Errors keep their class and what they say, wherever they are carried."""

import copy
import pickle

import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError

from infra.errors import NotFound, StorageAway, Throttled, Unavailable, UserError


class Ours(Unavailable):
    """One whose constructor takes something else than the sentence, as some do."""

    def __init__(self, what: str, *, count: int) -> None:
        super().__init__(f"{what} cannot be used now.")
        self.count = count


ERRORS = [
    NotFound("no orbit.", code="concept_not_found"),
    StorageAway("it is away."),
    Throttled("too many.", code="queue_full", retry_after=3.0),
    Ours("the disk", count=2),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "carry",
    [
        copy.copy,
        lambda error: pickle.loads(pickle.dumps(error)),
        lambda e: cloudpickle.loads(cloudpickle.dumps(e)),
    ],
    ids=["copied", "pickled", "cloudpickled"],
)
def test_an_error_that_is_carried_says_the_same(error, carry):
    other = carry(error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_ray_task_raised_has_its_class_its_code_and_its_sentence(error):
    raised = RayTaskError("task", "Traceback ...", error).as_instanceof_cause()
    assert isinstance(raised, type(error))
    assert (raised.message, raised.code) == (error.message, error.code)


def test_a_reworded_error_is_the_same_in_other_words():
    error = Ours("the disk", count=2)
    other = error.reworded("orbit@1: the disk is away.")
    assert (type(other), other.code, other.count) == (Ours, error.code, 2)
    assert (other.message, str(other)) == ("orbit@1: the disk is away.",) * 2
    assert error.message == "the disk cannot be used now."


def test_a_class_has_a_code_of_its_own_unless_the_error_says_another():
    assert [StorageAway("x").code, StorageAway("x", code="s3_unavailable").code, UserError("x").code] == [
        "storage_unreachable",
        "s3_unavailable",
        "invalid_request",
    ]
