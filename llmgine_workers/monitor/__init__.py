"""`llmgine flower`: Flower over our workers, tasks and queues, behind a password.

Nothing of ours lives here: what Flower shows is gathered anew from events and the broker,
its dead letters are the ledger's, so it may be killed, frozen or restarted at any time.
"""

from __future__ import annotations

from llmgine_workers.monitor.server import serve

__all__ = ["serve"]
