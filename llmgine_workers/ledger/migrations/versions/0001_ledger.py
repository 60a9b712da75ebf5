"""The first ledger: runs the SQL file beside this one."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
