"""OpenAI's interface to jobs: what an unmodified client of theirs sends and expects."""
