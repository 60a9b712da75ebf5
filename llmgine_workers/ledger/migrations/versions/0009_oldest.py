"""The oldest job that waits in each pool: runs the SQL beside."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
