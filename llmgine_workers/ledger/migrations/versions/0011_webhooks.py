"""Webhooks: what is owed when a job ends. Runs the SQL beside."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
