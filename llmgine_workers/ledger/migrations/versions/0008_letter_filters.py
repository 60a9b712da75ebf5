"""Letters found at once by whatever is asked of them: runs the SQL beside."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
