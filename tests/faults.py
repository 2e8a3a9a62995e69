"""A proxy in front of the loopback S3 server that injects faults: error answers, cut, stalled or lost responses."""

import http.client
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{0}</Code><Message>{0}</Message>'
    "<RequestId>1</RequestId></Error>"
)


class Refuse:
    """Answer with an S3 error."""

    def __init__(self, status, code):
        self.status, self.code = status, code

    def answer(self, handler, body):
        handler.send(self.status, {"Content-Type": "application/xml"}, ERROR.format(self.code).encode())


class Cut:
    """Forward the request, send half of the answer's body and close the connection."""

    def answer(self, handler, body):
        status, headers, content = handler.forward(body)
        handler.send(status, headers, content, cut=len(content) // 2)


class CutUpload:
    """Forward the headers and half of the body, then close both connections, as if the sender had died."""

    def answer(self, handler, body):
        connection = http.client.HTTPConnection(handler.upstream)
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body[: len(body) // 2])
        connection.sock.shutdown(socket.SHUT_WR)
        connection.getresponse().read()
        connection.close()
        handler.close_connection = True


class LoseAnswer:
    """Forward the request, so that it takes effect, and close the connection without an answer."""

    def answer(self, handler, body):
        handler.forward(body)
        handler.close_connection = True


class Stall:
    """Send half of the answer's body, set `reached`, and wait until the test sets `over`."""

    def __init__(self):
        self.reached, self.over = threading.Event(), threading.Event()

    def answer(self, handler, body):
        status, headers, content = handler.forward(body)
        self.reached_half = len(content) // 2
        handler.send(status, headers, content, cut=self.reached_half)
        self.reached.set()
        self.over.wait()


class Endless:
    """A value for `Proxy.faults` that repeats one fault until it is replaced."""

    def __init__(self, fault):
        self.fault = fault

    def pop(self, _index):
        return self.fault


class Proxy:
    """`faults`: one fault (or None) for each coming request whose method is in `methods`; later ones are forwarded."""

    def __init__(self, upstream):
        self.upstream = urlsplit(upstream).netloc
        self.faults, self.methods, self.seen = [], {"GET", "HEAD", "PUT", "POST", "DELETE"}, []
        self.lock = threading.Lock()

    def next_fault(self, method, path):
        with self.lock:
            self.seen.append((method, path))
            return self.faults.pop(0) if self.faults and method in self.methods else None


@contextmanager
def faulty(upstream):
    """A running proxy; `.endpoint` is its address."""
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        upstream = proxy.upstream

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(self.command, self.path)
            if fault:
                fault.answer(self, body)
            else:
                self.send(*self.forward(body))

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        def forward(self, body):
            connection = http.client.HTTPConnection(proxy.upstream)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            headers = dict(answer.getheaders())
            content = answer.read()
            connection.close()
            return answer.status, headers, content

        def send(self, status, headers, content, cut=None):
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            if self.command == "HEAD":
                self.send_header("Content-Length", headers.get("Content-Length", "0"))
                content = b""
            else:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if cut is None else content[:cut])
            self.wfile.flush()
            if cut is not None:
                self.close_connection = True

        def handle(self):
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):  # the client was killed
                pass

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
