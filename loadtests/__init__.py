"""Load and fault runs against a whole installation on this machine."""
