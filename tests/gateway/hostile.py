"""Requests that nobody means well with: nearly right ones, and wild ones."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.gateway.conftest import CHAIN

GOOD: list[dict[str, Any]] = [
    {
        "chain": "summarize",
        "inputs": {"text": "x"},
        "metadata": {"a": "b"},
        "options": {"priority": "normal", "timeout": "5m", "max_cost_usd": 0.5},
    },
    {"chain": CHAIN, "inputs": {"text": "x"}},
    {"tool": "word_count", "arguments": {"text": "x"}},
]
CHAT: dict[str, Any] = {
    "model": "fast",
    "messages": [{"role": "user", "content": "x"}],
    "stream": True,
    "temperature": 0.5,
    "max_tokens": 5,
    "stop": ["END"],
    "metadata": {"a": "b"},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}},
    },
}
POSTS = ("/v1/jobs", "/v1/batches", "/v1/chat/completions", "/v1/embeddings")
_PLAIN = """
chain inputs text jobs tool arguments metadata options priority timeout stream name steps
llm model prompt schema use parallel when fallback needs summarize fast tools system
openai/gpt-5-mini {{ {{inputs.text}} 5m sentences type string $ref # max_tokens output
"""
WORDS = [*_PLAIN.split(), "\0", "\ud800", "a/b~", "\u00e9\U0001f600", "x" * 3000, ""]
NUMBERS = [0, -1, 2**63, 2**64, 10**400, 1.5, 1e300, True, False, None]
PATHS = """
/v1/jobs /v1/batches /v1/pools /v1/chains /v1/jobs/{job} /v1/jobs/{job}/steps /readyz
/v1/jobs/{job}/steps/draft /v1/jobs/{job}/cancel /v1/jobs/{job}/explain /openapi.json
/v1/models /v1/models/fast /v1/models/%00 /v1/batches/{job} /%00 /v1/jobs/%ff
 /v1/jobs/{job}/steps/%00
"""
NAMES = (
    "state", "chain", "batch", "created_after", "limit", "cursor", "wait", "metadata.a",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1e9", "nan", "failed", "%00", "%ff", "%ED%A0%80", "a" * 500, "0.1",
    "2026-11-20T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000",
)  # fmt: skip
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Request:
    """What is to be sent."""

    method: str
    address: str
    headers: Mapping[str, str]
    body: bytes = b""


class Hostile:
    """Makes requests that are nearly right, or not at all."""

    def __init__(self, job: str, seed: int, document: Mapping[str, Any]) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - repeatable
        self.job = job
        self.parts = document["components"]["schemas"]
        self.declared = [
            (method.upper(), path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if not path.endswith("/events")  # a stream that is granted does not end
        ]

    def value(self, depth: int = 0) -> Any:
        chance = self.chance
        match chance.randrange(5 if depth < 5 else 3):
            case 0 | 1:
                return chance.choice(WORDS)
            case 2:
                return chance.choice(NUMBERS)
            case 3:
                return [self.value(depth + 1) for _ in range(chance.randrange(4))]
        return {
            chance.choice(WORDS): self.value(depth + 1)
            for _ in range(chance.randrange(5))
        }

    def changed(self, value: Any) -> Any:
        chance = self.chance
        if chance.random() < 0.08:
            return self.value()
        if isinstance(value, list):
            return [self.changed(one) for one in value if chance.random() > 0.05]
        if not isinstance(value, dict):
            return value
        return {
            chance.choice(WORDS) if chance.random() < 0.04 else name: self.changed(one)
            for name, one in value.items()
            if chance.random() > 0.04
        }

    def body(self, path: str) -> bytes:
        if path == POSTS[-1]:
            return self.encoded(self.changed(CHAT))
        count = self.chance.randrange(4)
        jobs = [self.changed(self.chance.choice(GOOD)) for _ in range(count + 1)]
        value = jobs[0] if path == "/v1/jobs" else self.changed({"jobs": jobs[1:]})
        return self.encoded(value)

    def encoded(self, value: Any) -> bytes:
        """JSON, or nearly."""
        body = json.dumps(value, ensure_ascii=self.chance.random() < 0.5)
        encoded = body.encode("utf-8", "surrogatepass")
        if self.chance.random() < 0.1:
            at = self.chance.randrange(len(encoded) + 1)
            encoded = encoded[:at] + self.chance.randbytes(1) + encoded[at:]
        return encoded

    def request(self) -> Request:
        """The next one: after the document, or after what is known to hurt."""
        return self.after_document() if self.chance.random() < 0.4 else self.known()

    def known(self) -> Request:
        """Bodies that are nearly right, addresses that are nearly there."""
        chance, headers = self.chance, self.headers()
        if chance.random() < 0.7:
            path = chance.choice(POSTS)
            headers["Content-Type"] = "application/json"
            if chance.random() < 0.1:
                headers["Idempotency-Key"] = chance.choice("abc")
            return Request("POST", path, headers, self.body(path))
        path = chance.choice(PATHS.split()).format(job=self.job)
        pairs = [f"{chance.choice(NAMES)}={chance.choice(VALUES)}" for _ in range(2)]
        address = f"{path}?{'&'.join(pairs[: chance.randrange(3)])}"
        return Request(chance.choice(METHODS), address, headers)

    def after_document(self) -> Request:
        """An operation of the OpenAPI document with values of its schemas, changed."""
        chance, headers = self.chance, self.headers()
        method, path, operation = chance.choice(self.declared)
        query, body = [], b""
        for parameter in operation.get("parameters", ()):
            name, value = parameter["name"], self.written(parameter["schema"])
            if parameter["in"] == "path":
                value = self.job if chance.random() < 0.6 else value
                path = path.replace(f"{{{name}}}", value or "%20")
            elif parameter["in"] == "query" and chance.random() < 0.5:
                waits = name == "wait"  # one that is granted would last
                query.append(f"{name}={chance.choice(VALUES) if waits else value}")
            elif parameter["in"] == "header" and chance.random() < 0.5:
                headers[name] = quote(value, safe=" ")
        if "requestBody" in operation:
            headers["Content-Type"] = "application/json"
            content = operation["requestBody"]["content"]["application/json"]
            body = self.encoded(self.changed(self.sample(content["schema"])))
        return Request(method, f"{path}?{'&'.join(query)}", headers, body)

    def headers(self) -> dict[str, str]:
        """Some that nobody asked for."""
        if self.chance.random() < 0.2:
            return {"traceparent": "zz-" + "x" * 50}
        return {}

    def written(self, schema: Mapping[str, Any]) -> str:
        """A value of a schema, or of none, as it stands in an address."""
        if self.chance.random() < 0.3:
            return self.chance.choice(VALUES)
        return quote(str(self.sample(schema)).encode("utf-8", "replace"), safe="")

    def sample(self, schema: Mapping[str, Any], depth: int = 0) -> Any:
        """A value that fits a schema, more or less."""
        chance = self.chance
        if "$ref" in schema:
            return self.sample(self.parts[schema["$ref"].rpartition("/")[2]], depth)
        for name in ("anyOf", "oneOf", "allOf"):
            if name in schema:
                return self.sample(chance.choice(schema[name]), depth)
        if "enum" in schema:
            return chance.choice(schema["enum"])
        kind = schema.get("type")
        kind = chance.choice(kind) if isinstance(kind, list) else kind
        if kind == "object" and depth < 6:
            members = schema.get("properties", {})
            needed = schema.get("required", ())
            return {
                name: self.sample(inner, depth + 1)
                for name, inner in members.items()
                if name in needed or chance.random() < 0.5
            } or self.value(depth)
        if kind == "array" and depth < 6:
            inner = schema.get("items", {})
            return [self.sample(inner, depth + 1) for _ in range(chance.randrange(4))]
        return self.scalar(kind, schema)

    def scalar(self, kind: str | None, schema: Mapping[str, Any]) -> Any:
        """A text, a number, or what no schema speaks of."""
        chance = self.chance
        if kind in ("integer", "number"):
            low, high = schema.get("minimum", 0), schema.get("maximum", 1000)
            return chance.choice((low, high, high + 1, low - 1, *NUMBERS[:5]))
        if kind == "string":
            return chance.choice((*WORDS, *VALUES))
        return self.value(4)
