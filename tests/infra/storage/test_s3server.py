"""The loopback S3 server where moto alone would not do."""

import io
import threading

import pytest

from infra.storage.s3server import StrictS3


class Trusting(StrictS3):
    def refusal(self, environ):
        return None


@pytest.mark.parametrize(("path", "waits"), [("/tests", True), ("/tests/", True), ("/tests/a/key", False)])
def test_a_listing_waits_for_a_write_and_an_objects_reader_does_not(path, waits):
    begun, done, answered = threading.Event(), threading.Event(), threading.Event()

    def app(environ, start):
        if environ["REQUEST_METHOD"] == "DELETE":
            begun.set()
            assert done.wait(10)
        return [b""]

    def ask(method, at):
        server({"REQUEST_METHOD": method, "PATH_INFO": at, "wsgi.input": io.BytesIO()}, None)
        if method == "GET":
            answered.set()

    server = Trusting(app, "access", "secret")
    threads = [
        threading.Thread(target=ask, args=asked) for asked in (("DELETE", "/tests/a/key"), ("GET", path))
    ]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    assert answered.wait(0.3 if waits else 10) is not waits
    done.set()
    for thread in threads:
        thread.join(10)
    assert answered.is_set()
