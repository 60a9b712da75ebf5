"""${message}: runs the SQL file beside this one."""

from llmgine_workers.ledger.migrate import run_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Forward only: a ledger is never taken back."""
    run_sql(__file__)
