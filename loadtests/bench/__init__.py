"""How fast, at what cost, beside whom: `make bench`, and how the figures are had."""
