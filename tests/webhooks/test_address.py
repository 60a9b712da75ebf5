from __future__ import annotations

import ipaddress

import pytest

from llmgine_workers.webhooks.address import (
    NotAllowed,
    check_address,
    check_url,
    network,
)

INNER = (network("127.0.0.0/8"), network("fd00::/8"))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/done",
        "https://example.com:443/done?order=A-17",
        "https://hooks.example.com:8443/",
        "https://93.184.215.14/",
        "https://[2606:4700::1111]/",
    ],
)
def test_public_addresses_are_allowed(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "http://example.com/", "file:///etc/passwd", "https://",
        "gopher://example.com/", "https://user:pass@example.com/", "https://@example.com",
        "https://example.com:22/", "https://example.com:0/", "https://example.com:99999/",
        "https://[::1", "https://exa mple.com/\n", "https://exämple.com/",
        "https://example.com/" + "a" * 2048, "https://public.com\\@127.0.0.1/",
        "https://localhost/", "https://localhost./", "https://a.localhost/",
        "https://metadata.google.internal/", "https://printer.local/", "https://intranet/",
        "https://169.254.169.254/", "https://127.0.0.1/", "https://10.1.2.3/",
        "https://0x7f000001/", "https://2130706433/", "https://127.1/", "https://0/",
        "https://017700000001/", "https://100.64.0.1/", "https://192.168.1.1:8443/",
        "https://[::1]/", "https://[::]/", "https://[fe80::1%25eth0]/",
        "https://[fd00::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:a00:1]/",
        "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://224.0.0.1/",
        "https://255.255.255.255/",
    ],
)  # fmt: skip
def test_what_is_inside_or_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        check_url(url)
    assert refused.value.code == "webhook_not_allowed"


def test_what_the_settings_allow_may_be_inside_and_plain() -> None:
    check_url("http://127.0.0.1:80/", INNER)
    check_url("http://[fd00::7]:22/", INNER)
    for url in ("http://10.0.0.1/", "http://example.com/", "ftp://127.0.0.1/"):
        with pytest.raises(NotAllowed):
            check_url(url, INNER)


def test_an_address_is_judged_by_itself() -> None:
    check_address(ipaddress.ip_address("1.1.1.1"))
    check_address(ipaddress.ip_address("127.0.0.9"), INNER)
    with pytest.raises(NotAllowed):
        check_address(ipaddress.ip_address("127.0.0.9"))
