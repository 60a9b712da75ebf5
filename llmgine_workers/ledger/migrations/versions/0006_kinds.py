"""Skipped steps of every kind: runs the SQL file beside this one."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
