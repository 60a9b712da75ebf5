"""What makes two failures the same: code, chain, step, and the message without its odds.

fingerprint("tool_failed", "no page 'a.html' (req_8f)", "report", "notes.3.page")
== fingerprint("tool_failed", "no page 'b.html' (req_9c)", "report", "notes.17.page")
"""

from __future__ import annotations

import hashlib
import re

READ = 2_000
"""Characters of a message that count; what differs further back is no other failure."""

_QUOTED = re.compile(r"""(?<!\w)(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`)(?!\w)""")
_ID = re.compile(r"\b(?=[\w-]*\d)[A-Za-z]*[\w-]{2,}\b|\d+")
_NUMBERS = re.compile(r"#(?:[.,:/]?#)+")


def fingerprint(
    code: str, message: str, chain: str | None = None, step: str | None = None
) -> str:
    """16 hexadecimal digits, the same for failures of one group."""
    path = ".".join(part for part in (step or "").split(".") if not part.isdigit())
    text = "\n".join((code, chain or "", path, normalised(message)))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def normalised(message: str) -> str:
    """The message without quotations, ids and numbers."""
    text = _QUOTED.sub("'#'", message[:READ])
    text = _NUMBERS.sub("#", _ID.sub("#", text))
    return " ".join(text.split())
