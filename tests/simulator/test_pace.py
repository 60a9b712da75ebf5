"""When answers leave: fixed, log-normal, and chunk by chunk."""

import statistics

import pytest

from llmgine_workers.simulator import Latency, SimulatorConfig
from llmgine_workers.simulator.chance import draw
from llmgine_workers.simulator.config import seconds
from tests.simulator.conftest import Start, ask_openai, openai_sdk


def test_log_normal_latencies_have_the_median_and_p95_asked_for() -> None:
    latency = Latency(median=0.4, p95=0.9)
    values = sorted(latency.at(draw(1, "latency", n)) for n in range(20_000))
    assert statistics.median(values) == pytest.approx(0.4, rel=0.03)
    assert values[19_000] == pytest.approx(0.9, rel=0.05)


def test_latencies_are_clamped() -> None:
    latency = Latency(0.4, 0.9, 0.2, 2.0)
    values = [latency.at(draw(1, "latency", n)) for n in range(2000)]
    assert min(values) == 0.2
    assert max(values) <= 2.0


def test_latencies_repeat_with_the_seed() -> None:
    latency = Latency(0.4, 0.9)
    first = [latency.at(draw(7, "latency", n)) for n in range(5)]
    assert first == [latency.at(draw(7, "latency", n)) for n in range(5)]
    assert len(set(first)) == 5


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("0.4", Latency(0.4)),
        ("400ms", Latency(0.4)),
        ("lognormal:400ms,0.9", Latency(0.4, 0.9)),
        ("lognormal:0.4,0.9,200ms,2s", Latency(0.4, 0.9, 0.2, 2.0)),
    ],
)
def test_a_latency_is_written_in_one_of_two_ways(text: str, latency: Latency) -> None:
    assert Latency.parse(text) == latency


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "lognormal:0.4", "lognormal:0.9,0.4", "normal:1,2", "1 2"]
)
def test_another_latency_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"latency|duration"):
        Latency.parse(text)


def test_durations_have_units() -> None:
    assert [seconds(t) for t in ("250ms", "2s", "1m", ".5")] == [0.25, 2.0, 60.0, 0.5]


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": 0},
        {"requests": 0},
        {"cached_share": 1.5},
        {"window": 0},
        {"reasoning_tokens": -1},
    ],
)
def test_a_senseless_setting_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SimulatorConfig(**options)  # type: ignore[arg-type]


async def test_a_plain_answer_takes_its_latency(start: Start) -> None:
    simulator = await start(latency=Latency(0.08))
    await ask_openai(simulator, "Hi")
    [call] = simulator.calls
    assert call.ended_mono is not None
    assert 0.08 <= call.ended_mono - call.started_mono < 2


async def test_a_stream_takes_as_long_and_starts_earlier(start: Start) -> None:
    simulator = await start(latency=Latency(0.2))
    await ask_openai(simulator, "Hi", stream=True)
    [call] = simulator.calls
    assert call.first_byte_mono is not None
    assert call.ended_mono is not None
    assert call.first_byte_mono - call.started_mono >= 0.05
    assert call.ended_mono - call.first_byte_mono >= 0.14


async def test_chunks_arrive_one_by_one_at_their_rate(start: Start) -> None:
    simulator = await start(first_token=0.0, chunk_rate=50, chunks=6)
    client = openai_sdk(simulator)
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    sent = [simulator.calls[0].chunks_sent async for _ in stream]
    assert sent[0] < 6
    assert sent[-1] == 6
    [call] = simulator.calls
    assert call.ended_mono is not None
    assert call.ended_mono - call.started_mono >= 5 / 50
