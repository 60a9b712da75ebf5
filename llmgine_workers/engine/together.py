"""What the visits of one process ask of the ledger, many at a time."""

from __future__ import annotations

from functools import partial

from llmgine_workers.ledger import attempts, steps
from llmgine_workers.ledger.attempts import Closing, Opening
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.gather import Gatherer
from llmgine_workers.ledger.records import Claim, Hinted, StepKey


class Together:
    """Each is asked for one step, and answers when the statement it was in has."""

    def __init__(self, ledger: Ledger) -> None:
        self.read: Gatherer[StepKey, Hinted | None] = Gatherer(
            partial(steps.read, ledger)
        )
        self.claim: Gatherer[Opening, Claim | None] = Gatherer(
            partial(attempts.claim, ledger)
        )
        self.close: Gatherer[Closing, None] = Gatherer(partial(attempts.close, ledger))
