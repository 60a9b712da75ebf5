"""PostgreSQL: the truth about every job, and the queue. The only room with SQL."""
