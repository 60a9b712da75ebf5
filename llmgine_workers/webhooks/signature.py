"""Standard Webhooks: three headers by which a receiver knows who sent a message."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
"""Of a secret, by the specification."""


def secrets_of(text: str) -> tuple[bytes, ...]:
    """The secrets of a setting, newest first; ValueError for one that is none.

    While two stand there every message is signed with both, so receivers can change.
    """
    return tuple(_secret(word) for word in text.split())


def headers(
    secrets: Sequence[bytes], message: str, at: datetime, body: bytes
) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and `webhook-signature` (v1) of a message."""
    timestamp = str(int(at.timestamp()))
    signed = b".".join((message.encode(), timestamp.encode(), body))
    signatures = (hmac.new(key, signed, hashlib.sha256).digest() for key in secrets)
    return {
        "webhook-id": message,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(one).decode()}" for one in signatures
        ),
    }


def _secret(word: str) -> bytes:
    try:
        key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not word.startswith(PREFIX) or not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(
            f"a secret is {PREFIX} and {LEAST_BYTES} to {MOST_BYTES} bytes in base64"
        )
    return key
