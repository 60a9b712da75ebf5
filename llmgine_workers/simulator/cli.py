"""The command `llmgine simulate`: a simulated provider, until a signal stops it."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from llmgine_workers.simulator.config import Latency, SimulatorConfig, seconds
from llmgine_workers.simulator.faults import KINDS
from llmgine_workers.simulator.server import Simulator

EXIT_CONFIGURATION = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. 0 when stopped, 2 usage, 78 cannot listen or log."""
    parser = _parser()
    options = vars(parser.parse_args(argv))
    options["fault_rates"] = dict(options.pop("fault"))
    options["models"] = tuple(options.pop("model"))
    try:
        config = SimulatorConfig(**options)
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(_run(config))
    except OSError as error:
        sys.stderr.write(f"the simulator cannot start: {error}\n")
        return EXIT_CONFIGURATION
    return 0


async def _run(config: SimulatorConfig) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with Simulator(config) as simulator:
        sys.stdout.write(f"simulator listening on {simulator.url}\n")
        sys.stdout.flush()
        await stopped.wait()


def _rate(text: str) -> tuple[str, float]:
    kind, equals, share = text.partition("=")
    if kind not in KINDS or not equals or not 0 <= float(share) <= 1:
        known = " ".join(sorted(KINDS))
        raise argparse.ArgumentTypeError(f"write KIND=SHARE (0..1); kinds: {known}")
    return kind, float(share)


def _latency(text: str) -> Latency:
    try:
        return Latency.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmgine simulate",
        description="A simulated model provider: OpenAI's and Anthropic's wire formats, "
        "seeded answers, real limits, faults on demand, and a log of every call.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 takes a free one and prints it")
    add("--seed", type=int, default=1)
    add("--log", type=Path, help="append every call to this file, as JSON lines")
    _add_pace(parser)
    _add_answers(parser)
    _add_refusals(parser)
    return parser


def _add_pace(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pace (250ms, 2s, 1m or bare seconds)").add_argument
    whole = "a whole answer: 0.4 or lognormal:MEDIAN,P95[,MIN,MAX]; default 0"
    add("--latency", type=_latency, default=Latency(), metavar="L", help=whole)
    add("--first-token", type=_seconds, help="to a stream's first chunk; a quarter of it")
    add("--chunk-rate", type=float, help="chunks per second; they fill the latency")
    add("--chunks", type=int, default=20, help="chunks per stream; default 20")


def _add_answers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("answers").add_argument
    add("--answer-tokens", type=int, default=80, help="length of an answer; default 80")
    add("--reasoning-tokens", type=int, default=0, help="billed beside each answer")
    add("--cached-share", type=float, default=0.0, help="of the input, 0..1")
    add("--tool-rate", type=float, default=1.0, help="share that calls a tool")
    add("--model", action="append", default=[], help="a known model; others are 404")


def _add_refusals(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("limits and faults").add_argument
    add("--rpm", dest="requests", type=int, help="requests per window and wire format")
    add("--tpm", dest="tokens", type=int, help="tokens per window and wire format")
    add("--window", type=_seconds, default=60.0, help="length of the window; default 60s")
    add("--require-key", action="store_true", help="401 without a key or with `bad`")
    share = "let this share of the calls fail; may be repeated"
    add("--fault", type=_rate, action="append", default=[], metavar="K=SHARE", help=share)
