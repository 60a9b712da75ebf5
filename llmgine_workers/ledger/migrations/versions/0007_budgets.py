"""Budgets in dollars, kept beside the attempts they count: runs the SQL beside."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
