"""A simulated model provider: both wire formats, faults on demand, its own log.

It is the independent witness of load and fault tests, so it shares no code with what it
watches: standard library and aiohttp only.

    async with Simulator(SimulatorConfig(seed=7)) as simulator:
        ...  # base_url = simulator.url + "/v1" (openai) or simulator.url (anthropic)
        assert simulator.calls[0].ended == "completed"
"""

from llmgine_workers.simulator.call_log import CallRecord, read_log
from llmgine_workers.simulator.cli import main
from llmgine_workers.simulator.config import Latency, SimulatorConfig
from llmgine_workers.simulator.faults import FaultRule
from llmgine_workers.simulator.server import Simulator
from llmgine_workers.simulator.text import count_tokens

__all__ = [
    "CallRecord",
    "FaultRule",
    "Latency",
    "Simulator",
    "SimulatorConfig",
    "count_tokens",
    "main",
    "read_log",
]
