"""The load without a fault: one completed call per step, every text as it was sent."""

from __future__ import annotations

import argparse

from loadtests.drive import Posted, post
from loadtests.faults.run import main
from loadtests.site import Site


async def scenario(site: Site, arguments: argparse.Namespace) -> Posted:
    """Post, and that is all."""
    return await post(site, arguments.jobs, per_s=arguments.rate, seed=arguments.seed)


if __name__ == "__main__":
    main("no fault", scenario, jobs=2000)
