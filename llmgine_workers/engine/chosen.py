"""Which chain a request means: named, brought along, or made of one tool."""

from __future__ import annotations

import difflib
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from chains import (
    Chain,
    Finding,
    InvalidChain,
    StepFacts,
    load_chain,
    single_tool_chain,
    steps_of,
    version_of,
)
from chains.chain import CALLING, MAX_NESTING
from chains.resolve import references_of, with_chains
from chains.steps import fixed_count
from llmgine_workers.errors import Refusal

if TYPE_CHECKING:
    from llmgine_workers.engine.submit import JobRequest
    from llmgine_workers.runtime import Runtime

KEPT_BYTES = 4_000_000
"""Of definitions that came with requests, as written; parsed they are some ten times."""


@dataclass(frozen=True)
class Chosen:
    """A chain, its version, and which of its tools and models nobody here has.

    `steps_total` is 0 where it depends on what happens.
    """

    chain: Chain
    version: str
    steps_total: int
    unrunnable: tuple[Finding, ...]
    simulated: bool


class KnownChains:
    """Chains that came with earlier requests, by what was written; oldest use first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[Chosen, int]] = OrderedDict()
        self._bytes = 0

    def get(self, written: bytes) -> Chosen | None:
        """What was kept for that definition."""
        digest = _digest(written)
        if digest not in self._kept:
            return None
        self._kept.move_to_end(digest)
        return self._kept[digest][0]

    def keep(self, written: bytes, chosen: Chosen) -> None:
        """Keep it, and forget what was not asked for the longest if that is too much."""
        digest = _digest(written)
        _, before = self._kept.pop(digest, (None, 0))
        self._kept[digest] = chosen, len(written)
        self._bytes += len(written) - before
        while self._bytes > KEPT_BYTES:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size


class ChosenChains:
    """The chains of one submit: each is looked up, read and stored once."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._named: dict[str, Chosen | None] = {}
        self._fresh: dict[str, Chain] = {}

    async def of(self, request: JobRequest) -> Chosen:
        """The chain that a request names or brings; Refusal if there is none."""
        if request.tool is not None:
            unknown = _unknown_tool(self._rt, request.tool)
            if unknown:
                raise refusal("unknown_tool", "/tool", unknown)
            chain = single_tool_chain(request.tool, dict(request.arguments))
            return self._with(self._made(chain, "/tool"))
        if isinstance(request.chain, str):
            return await self._by_name(request.chain)
        return self._with(await self._by_definition(request.chain or {}))

    async def store(self) -> None:
        """Keep what came with the requests, once all of them are found good."""
        await self._rt.chains.store(self._fresh)

    def _with(self, chosen: Chosen) -> Chosen:
        self._fresh[chosen.version] = chosen.chain
        return chosen

    async def _by_name(self, name: str) -> Chosen:
        if name not in self._named:
            found = await self._rt.chains.named(name)
            self._named[name] = await self._whole(*found) if found else None
        chosen = self._named[name]
        if chosen is None:
            raise refusal("unknown_chain", "/chain", f"no chain {name!r} in the registry")
        return chosen

    async def _by_definition(self, definition: Mapping[str, Any]) -> Chosen:
        written = orjson.dumps(definition)
        known = self._rt.intake.known.get(written)
        if known is None:
            with _refusing_invalid():
                chain = load_chain(dict(definition))
            known = await self._whole(chain, None)
            if not references_of(chain):  # what it names may have another version soon
                self._rt.intake.known.keep(written, known)
        return known

    async def _whole(self, chain: Chain, version: str | None) -> Chosen:
        """With the chains it uses in their places; its own version where it has one."""
        whole = chain
        for _ in range(MAX_NESTING):
            if not (names := references_of(whole)):
                break
            with _refusing_invalid():
                whole = with_chains(whole, await self._inner(names))
        if whole is chain and version:
            return self._chosen(chain, version, "/chain")
        return self._with(self._made(whole, "/chain"))

    async def _inner(self, names: Iterable[str]) -> dict[str, Chain]:
        found = {name: await self._rt.chains.named(name) for name in names}
        if missing := sorted(name for name, one in found.items() if one is None):
            detail = f"no chain {missing[0]!r} in the registry, which a step uses"
            raise refusal("unknown_chain", "/chain", detail)
        return {name: one[0] for name, one in found.items() if one}

    def _made(self, chain: Chain, place: str) -> Chosen:
        return self._chosen(chain, version_of(chain), place)

    def _chosen(self, chain: Chain, version: str, place: str) -> Chosen:
        steps = steps_of(chain)
        unrunnable = tuple(_unrunnable(self._rt, steps, place))
        simulated = not unrunnable and _is_simulated(self._rt, steps)
        return Chosen(chain, version, fixed_count(chain) or 0, unrunnable, simulated)


def refusal(code: str, pointer: str, detail: str) -> Refusal:
    """A refusal with one finding."""
    return Refusal(code, detail, [Finding(pointer, code, detail).as_dict()])


def _digest(written: bytes) -> bytes:
    return hashlib.sha256(written).digest()


def _is_simulated(rt: Runtime, steps: Iterable[StepFacts]) -> bool:
    """Whether any model of the chain makes its answers up."""
    return any(
        rt.models.is_simulated(rt.models.of(step)[0])
        for step in steps
        if step.kind in CALLING
    )


def _unrunnable(rt: Runtime, steps: Iterable[StepFacts], place: str) -> Iterator[Finding]:
    """Tools and models that nobody here has, each once."""
    told = set()
    for step in steps:
        try:
            _check_step(rt, step)
        except Refusal as refused:
            if str(refused) not in told:
                told.add(str(refused))
                yield Finding(place, refused.code, str(refused))


def _check_step(rt: Runtime, step: StepFacts) -> None:
    if step.kind in CALLING:
        rt.models.of(step)
    elif step.tool and (unknown := _unknown_tool(rt, step.tool)):
        raise Refusal("unknown_tool", unknown)


def _unknown_tool(rt: Runtime, name: str) -> str | None:
    if name in rt.tools:
        return None
    close = difflib.get_close_matches(name, rt.tools, 1)
    return f"no tool {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


@contextmanager
def _refusing_invalid() -> Iterator[None]:
    try:
        yield
    except InvalidChain as error:
        findings = [_at("/chain", finding) for finding in error.findings]
        raise Refusal("invalid_chain", str(error), findings) from None


def _at(place: str, finding: Finding) -> dict[str, object]:
    return {**finding.as_dict(), "pointer": f"{place}{finding.pointer}"}
