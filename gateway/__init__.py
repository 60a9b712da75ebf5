"""The HTTP front: validate, authenticate, write the job, relay its events."""
