"""Steps of the kind `embed`: runs the SQL file beside this one."""

from llmgine_workers.ledger.migrate import run_sql

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
