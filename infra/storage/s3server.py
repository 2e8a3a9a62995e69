"""An S3 server on loopback for the demo and the tests: moto in a separate process.

    with LoopbackS3(bucket="demo") as s3, s3.exported():
        open_storage(s3.uri).put("key", b"value")

moto keeps objects in memory and in temporary files until the server stops. This module adds three
guarantees of the real S3 that moto lacks: conditional writes are atomic (moto checks, then writes), a
request whose signature does not match the secret is refused with 403 (moto ignores the secret), and an
interrupted upload is not stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib.util
import io
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl, quote

from infra.environment import restored
from infra.errors import Unavailable, UserError
from infra.paths import ROOT


class LoopbackS3:
    """Starts the server and creates its bucket on entering; stops it on leaving.

    The server also ends when this process dies in any way: it watches a pipe that then closes.
    """

    def __init__(self, bucket: str = "demo") -> None:
        self.bucket = bucket
        self.uri = f"s3://{bucket}"
        self.endpoint = ""
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LoopbackS3:
        if importlib.util.find_spec("moto") is None:
            raise UserError(
                "the loopback S3 server needs moto, which is not installed; pip install -c constraints.txt -e '.[demo]' in "
                "the project's folder, as `make demo` does.",
                code="demo_not_installed",
            )
        access, secret = "LOOPBACK" + secrets.token_hex(6).upper(), secrets.token_urlsafe(24)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "LOOPBACK_S3_ACCESS": access,
            "LOOPBACK_S3_SECRET": secret,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "infra.storage.s3server"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the caller, who stops the server last
        )
        assert self.process.stdout is not None
        port = self.process.stdout.readline().strip()
        if not port:
            raise Unavailable(
                f"the loopback S3 server did not start (exit {self.process.wait()}); "
                "its error message is above.",
                code="s3_server_failed",
            )
        self.endpoint = f"http://127.0.0.1:{port}"
        self.env = {
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
        }
        with self.exported():
            self.create_bucket(self.bucket)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    @contextlib.contextmanager
    def exported(self) -> Iterator[None]:
        """Set this server's address and credentials in os.environ, for this process and its children."""
        foreign = ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE")
        with restored((*self.env, *foreign)):
            for name in foreign:
                os.environ.pop(name, None)
            os.environ.update(self.env)
            yield

    def create_bucket(self, bucket: str) -> str:
        """Create another bucket; returns its URI."""
        from infra.storage.s3 import make_client

        make_client().create_bucket(Bucket=bucket)
        return f"s3://{bucket}"


StartResponse = Callable[..., Any]


class StrictS3:
    """WSGI middleware in front of moto: checks signatures (version 4) and serializes writes and listings.

    moto's listing fails if a key is deleted while it iterates.
    """

    def __init__(self, app: Any, access: str, secret: str) -> None:
        self.app, self.access, self.secret = app, access, secret
        self.writing = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        refusal = self.refusal(environ)
        if refusal:
            return refuse(start, *refusal)
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            if "/" in environ["PATH_INFO"].strip("/"):  # of an object
                return self.app(environ, start)
            with self.writing:
                return list(self.app(environ, start))
        body = read_body(environ)  # before the lock, so that a slow sender does not hold it
        if len(body) < int(environ.get("CONTENT_LENGTH") or 0):  # the sender died; moto would store it
            return refuse(start, "IncompleteBody", "The request body ended too early.", "400 Bad Request")
        environ["wsgi.input"] = io.BytesIO(body)
        environ["wsgi.input_terminated"] = True
        with self.writing:
            return list(self.app(environ, start))

    def refusal(self, environ: dict[str, Any]) -> tuple[str, str] | None:
        """(code, message) unless the Authorization header proves knowledge of the secret."""
        scheme, _, fields = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme != "AWS4-HMAC-SHA256":
            return "AccessDenied", "Access Denied"
        given = dict(part.strip().split("=", 1) for part in fields.split(","))
        access, date, region, service, _ = given["Credential"].rsplit("/", 4)
        if access != self.access:
            return "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
        path, _, query = environ["RAW_URI"].partition("?")
        canonical = "\n".join(
            [
                environ["REQUEST_METHOD"],
                path,
                "&".join(
                    f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
                    for name, value in sorted(parse_qsl(query, keep_blank_values=True))
                ),
                *(f"{name}:{header(environ, name)}" for name in given["SignedHeaders"].split(";")),
                "",
                given["SignedHeaders"],
                environ["HTTP_X_AMZ_CONTENT_SHA256"],
            ]
        )
        to_sign = "\n".join(
            [
                scheme,
                environ["HTTP_X_AMZ_DATE"],
                f"{date}/{region}/{service}/aws4_request",
                hashlib.sha256(canonical.encode()).hexdigest(),
            ]
        )
        key = f"AWS4{self.secret}".encode()
        for step in (date, region, service, "aws4_request"):
            key = hmac.digest(key, step.encode(), "sha256")
        if not hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), given["Signature"]):
            return (
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
            )
        return None


def header(environ: dict[str, Any], name: str) -> str:
    """A request header in the signature's form: runs of spaces become one."""
    plain = name.upper().replace("-", "_")
    value = environ.get(plain if plain in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{plain}", "")
    return " ".join(value.split())


def read_body(environ: dict[str, Any]) -> bytes:
    """The request's whole body, of known length or chunked (then the server ends the stream)."""
    length = environ.get("CONTENT_LENGTH")
    if length:
        return environ["wsgi.input"].read(int(length))
    return environ["wsgi.input"].read() if environ.get("wsgi.input_terminated") else b""


def refuse(start: StartResponse, code: str, message: str, status: str = "403 Forbidden") -> Iterable[bytes]:
    """An error response in S3's format."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    start(
        status,
        [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), ("Connection", "close")],
    )
    return [body.encode()]


def serve() -> None:
    """The child process: serves on a free port of 127.0.0.1, prints it, ends when standard input closes."""
    import logging

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = StrictS3(
        DomainDispatcherApplication(create_backend_app),
        os.environ.pop("LOOPBACK_S3_ACCESS"),
        os.environ.pop("LOOPBACK_S3_SECRET"),
    )
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)

    def end_with_the_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    serve()
