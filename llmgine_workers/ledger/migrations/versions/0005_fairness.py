"""Fair turns between tenants, and pools that a person paused: runs the SQL beside."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
