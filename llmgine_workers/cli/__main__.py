"""`python -P -m llmgine_workers.cli`: how `up` starts its children."""

import sys

from llmgine_workers.cli.app import main

sys.exit(main())
