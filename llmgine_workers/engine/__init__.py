"""Where the rooms meet: one job's life, from submit to its named end."""
