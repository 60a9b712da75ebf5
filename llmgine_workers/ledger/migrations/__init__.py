"""The schema's history: plain SQL, run in order by Alembic."""
