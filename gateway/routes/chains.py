"""`/v1/chains`: what can be submitted by name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from gateway.answers import answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.openapi import documented
from llmgine_workers.ledger import registry

router = APIRouter()


@router.get("/v1/chains", **documented("ChainPage"))
async def list_chains(
    here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """Every chain of the registry by name, with the inputs it takes."""
    data = []
    for name in await registry.names(here.rt.ledger):
        found = await here.rt.chains.named(name)
        if found is None:  # its version was replaced and pruned between two reads
            continue
        chain, version = found
        data.append(
            {
                "name": name,
                "version": version,
                "description": chain.description,
                "inputs": dict(chain.inputs),
            }
        )
    return answer({"data": data, "next_cursor": None})
