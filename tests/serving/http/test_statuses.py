"""What the API answers a class of errors with: statuses that clients rely on."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from infra import errors
from infra.errors import UserError
from infra.files import UnusablePath
from infra.storage import InvalidKey, InvalidUri, ObjectNotFound
from infra.storage.s3 import BucketNotFound, ObjectDenied, ObjectRefused
from serving.adapters.storage_faults import StorageFault
from serving.events import FoundationChanged
from serving.http.errors import add_error_handlers
from serving.http.statuses import class_of, status_of
from serving.jobs.addresses import Refused

ANSWERED = {
    UserError: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.InvalidInput: 422,
    errors.ConceptError: 422,
    errors.Throttled: 429,
    errors.SystemFailure: 500,
    errors.DamagedData: 502,
    errors.Unavailable: 503,
    errors.DeadlinePassed: 504,
    errors.OutOfMemory: 507,
    errors.StorageError: 400,
    errors.StorageAway: 503,
    errors.StorageDenied: 403,
    errors.StorageFull: 507,
    ObjectNotFound: 404,
    InvalidKey: 422,
    InvalidUri: 400,
    UnusablePath: 422,
    BucketNotFound: 404,
    ObjectDenied: 403,
    ObjectRefused: 400,
    StorageFault: 503,
    Refused: 422,
    FoundationChanged: 503,
}


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_a_class_of_errors_has_its_status_and_its_headers(kind: type[UserError]):
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/")
    def fail() -> None:
        raise kind("orbit is wrong.")

    answer = TestClient(app).get("/")
    assert answer.status_code == ANSWERED[kind]
    assert answer.json()["error"]["code"] == kind.default_code
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)


def test_every_class_is_listed_above():
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)}
    assert kinds <= ANSWERED.keys()


def test_a_client_raises_a_class_of_the_status_that_it_was_answered():
    for status in set(ANSWERED.values()):
        assert status_of(class_of(status)("orbit is wrong.")) == status
    assert [class_of(418), class_of(599)] == [UserError, errors.SystemFailure]
