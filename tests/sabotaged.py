"""Runs the demo, or one of its children, with one thing broken: `sabotaged.py WHAT ...`.

It runs without RabbitMQ, so that a test of the tests takes seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from llmgine_workers import dead_letters, settings
from llmgine_workers.cli import app, demo, local_broker, story
from llmgine_workers.cli.endings import conclude
from llmgine_workers.ledger import replay
from llmgine_workers.prices import Prices


def charge_more() -> None:
    """Every call costs a micro-dollar more than the price book says."""
    honest = Prices.cost

    def cost(self: Prices, *about: Any) -> int | None:
        found = honest(self, *about)
        return None if found is None else found + 1

    setattr(Prices, "cost", cost)  # noqa: B010 - mypy lets nobody else do this


def hide_letters() -> None:
    """Letters never reach the broker."""

    async def mirror(rt: object) -> int:
        return 0

    dead_letters.mirror = mirror


def replay_everything() -> None:
    """A replay runs the steps again that had succeeded."""
    honest = replay._REOPEN_STEPS
    all_steps = honest.replace(
        "state = 'cancelled'", "state in ('cancelled', 'succeeded')"
    )
    assert honest != all_steps, "the statement has other words now"
    no_results = "delete from payloads where job_id = $1 and kind = 'output'"
    replay._REOPEN_STEPS = f"with gone as ({no_results}) {all_steps}"


SABOTAGE = {
    "charge_more": charge_more,
    "hide_letters": hide_letters,
    "replay_everything": replay_everything,
}


def main() -> int:
    """The demo itself without further arguments, else what they ask for."""
    what, *rest = sys.argv[1:]
    SABOTAGE[what]()
    if rest:
        return app.main(rest)
    setattr(local_broker, "rabbit_available", lambda: False)  # noqa: B010
    story.SOON_S = 5.0
    program = (sys.executable, "-P", __file__, what)
    try:
        asyncio.run(demo.run(settings.load(None, {}), os.environ, program=program))
    except BaseException as error:  # as the command line ends
        return conclude(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
