"""Batches, and each pool's steps as the scheduler counts them: runs the SQL beside."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
