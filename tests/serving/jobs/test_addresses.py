"""Where webhooks may go: public addresses only, whatever form they come in and whenever the name is asked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl

import httpcore
import pytest
from fakes import receiver

from infra.errors import Unavailable, UserError
from serving.jobs.addresses import Refused, check_url, is_public, parse_networks, post, public_tls, split_url

LOOPBACK = parse_networks(["127.0.0.0/8"])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.2.1",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:ffff::1",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "fec0::1",
        "feff::1",
        "3fff::1",
        "5f00::1",
        "192.0.0.8",
        "192.88.99.1",
        "::ffff:192.88.99.1",
        "64:ff9b::c058:6301",
    ],
)
def test_these_are_not_public(address: str):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2a00:1450::1"]
)
def test_these_are_public(address: str):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://",
        "https://user:password@example.org/",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://exa mple.org/",
        "https://example.org/\r\nHost: x",
        "https://[::1",
        "https://[fe80::1%25eth0]/",
        "https://example.org\\@127.0.0.1/",
    ],
)
def test_these_are_no_urls_for_webhooks(url: str):
    with pytest.raises(Refused):
        split_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://no-such-host.invalid/",
    ],
)
def test_private_hosts_are_refused_however_they_are_written(url: str):
    with pytest.raises(Refused):
        asyncio.run(check_url(url, ()))


def test_what_the_operator_allows_may_be_called_and_nothing_else():
    asyncio.run(check_url("http://127.0.0.1:9/", LOOPBACK))
    with pytest.raises(Refused, match="not a public address"):
        asyncio.run(check_url("http://10.0.0.1/", LOOPBACK))
    with pytest.raises(Refused, match="https"):
        asyncio.run(check_url("http://8.8.8.8/", LOOPBACK))


def answers(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these addresses, call by call; the list of names asked for."""
    asked: list[str] = []
    left = list(answers)

    def getaddrinfo(host, port, *_, **__):
        asked.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    ("failure", "refusal", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Refused, "webhook_refused"),
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            Unavailable,
            "resolver_slow",
        ),
        (TimeoutError("timed out"), Unavailable, "resolver_slow"),
    ],
)
def test_a_name_that_is_not_told_now_is_no_wrong_name(
    monkeypatch: pytest.MonkeyPatch, failure: OSError, refusal: type[UserError], code: str
):
    def getaddrinfo(*_, **__):
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(refusal) as caught:
        asyncio.run(check_url("https://hooks.example/", ()))
    assert caught.value.code == code


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch):
    answers(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(Refused):
        asyncio.run(check_url("https://example.org/", ()))


def test_a_name_that_changes_its_mind_after_the_check_is_not_connected_to(monkeypatch: pytest.MonkeyPatch):
    with receiver() as target:
        port = target.url.split(":")[2].split("/")[0]
        asked = answers(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
        with pytest.raises(Refused):
            asyncio.run(post(f"https://rebinding.example:{port}/", b"{}", {}, allowed=(), timeout=5))
        assert asked == ["rebinding.example"] * 2  # once for the check, once for the connection
        assert target.got == []


def test_the_call_goes_to_the_checked_address_with_the_names_host_header(monkeypatch: pytest.MonkeyPatch):
    with receiver() as target:
        port = target.url.split(":")[2].split("/")[0]
        asked = answers(monkeypatch, ["127.0.0.1"])
        url = f"http://hooks.example:{port}/x?y=1"
        assert asyncio.run(post(url, b"{}", {}, allowed=LOOPBACK, timeout=5)) == 200
        [(path, headers, body)] = target.got
        assert (path, headers["host"], body) == ("/x?y=1", f"hooks.example:{port}", b"{}")
        assert asked == ["hooks.example"] * 2  # the name is asked for no third time, after the checks


def test_the_authorities_are_read_once_and_not_for_each_call(monkeypatch: pytest.MonkeyPatch):
    public_tls.cache_clear()
    made, create = [], ssl.create_default_context

    def counted(*args, **kwargs) -> ssl.SSLContext:
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    with receiver() as target:
        for _ in range(2):
            with pytest.raises(httpcore.ConnectError):  # it speaks no TLS
                asyncio.run(post(target.url.replace("http", "https"), b"{}", {}, allowed=LOOPBACK, timeout=5))
    assert len(made) == 1


def test_a_redirect_is_an_answer_and_not_followed():
    with receiver() as target, receiver() as secret:
        target.statuses, target.headers = [307], {"location": secret.url}
        assert asyncio.run(post(target.url, b"{}", {}, allowed=LOOPBACK, timeout=5)) == 307
        assert secret.got == []
