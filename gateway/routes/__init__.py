"""The addresses of interface section 2, one file per noun."""
