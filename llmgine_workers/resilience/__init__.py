"""When to call, when to wait, when to give up: retry, breaker, limits, admission."""
