from __future__ import annotations

import base64
import hmac
from datetime import UTC, datetime

import pytest

from llmgine_workers.webhooks.signature import headers, secrets_of

OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_a_receiver_can_check_the_signature_as_the_specification_says() -> None:
    sent = headers(secrets_of(OLD), "msg_1", AT, b'{"a":1}')
    assert (sent["webhook-id"], sent["webhook-timestamp"]) == ("msg_1", "1795176000")
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + b'{"a":1}'
    expected = base64.b64encode(hmac.digest(b"o" * 24, signed, "sha256")).decode()
    assert sent["webhook-signature"] == f"v1,{expected}"


def test_two_secrets_sign_side_by_side_while_receivers_change() -> None:
    (old,) = headers(secrets_of(OLD), "m", AT, b"x")["webhook-signature"].split()
    (new,) = headers(secrets_of(NEW), "m", AT, b"x")["webhook-signature"].split()
    both = headers(secrets_of(f"{NEW} {OLD}"), "m", AT, b"x")["webhook-signature"]
    assert both == f"{new} {old}"


@pytest.mark.parametrize("text", ["whsec_", "secret", "whsec_!!!", "whsec_c2hvcnQ="])
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        secrets_of(text)


def test_no_secret_is_none() -> None:
    assert secrets_of("") == ()
