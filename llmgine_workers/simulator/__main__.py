"""`python -m llmgine_workers.simulator`: runs the simulated provider until a signal."""

import sys

from llmgine_workers.simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
