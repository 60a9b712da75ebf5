"""What each kind of step does while a chain is replayed, by the word it is written with.

visit(walk, step, path, scope) -> how it ended, or None while it has not
"""

from collections.abc import Mapping
from types import MappingProxyType

from chains.chain import Kind
from chains.kinds import branch, chain, loop, map, parallel, work
from chains.walk import Visit

VISITS: Mapping[Kind, Visit] = MappingProxyType(
    {
        "llm": work.visit,
        "embed": work.visit,
        "tool": work.visit,
        "wait": work.visit,
        "parallel": parallel.visit,
        "map": map.visit,
        "branch": branch.visit,
        "loop": loop.visit,
        "chain": chain.visit,
    }
)
