"""A Redis that is dead, slow or refuses costs one short failure, then nothing."""

from __future__ import annotations

import asyncio

import pytest
import redis

from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown, Script
from tests.ephemeral.conftest import (
    NewEphemeral,
    eventually,
    eventually_true,
    seconds_of,
    server_that_says,
)
from tests.servers import RedisServer

NOBODY = "redis://127.0.0.1:1"
ECHO = Script("return ARGV[1]")


async def test_a_dead_server_is_said_at_once(new_ephemeral: NewEphemeral) -> None:
    ephemeral = new_ephemeral(NOBODY)
    with pytest.raises(EphemeralDown):
        await ephemeral.command("GET", "x")
    assert not ephemeral.alive
    assert ephemeral.reason


async def test_while_it_is_down_no_call_touches_the_network(
    new_ephemeral: NewEphemeral, monkeypatch: pytest.MonkeyPatch
) -> None:
    ephemeral = new_ephemeral(NOBODY)
    await seconds_of(ephemeral.command("GET", "x"))

    async def touched(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(asyncio, "open_connection", touched)
    for call in (ephemeral.command("GET", "x"), ephemeral.run(ECHO, [], 1)):
        with pytest.raises(EphemeralDown):
            await call
    with pytest.raises(EphemeralDown):
        await ephemeral.blocking(1.0, "XREAD", "BLOCK", 1000, "STREAMS", "x", "$")


@pytest.mark.parametrize(
    "reply",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MISCONF Errors writing to the AOF file\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
async def test_a_server_that_refuses_is_down(
    reply: bytes, new_ephemeral: NewEphemeral
) -> None:
    async with server_that_says(reply) as url:
        ephemeral = new_ephemeral(url)
        with pytest.raises(EphemeralDown):
            await ephemeral.run(ECHO, [], "x")
        assert not ephemeral.alive
        await ephemeral.close()


async def test_a_silent_server_is_given_up_within_150_ms_by_all_its_callers(
    new_ephemeral: NewEphemeral,
) -> None:
    async with server_that_says(b"") as url:
        times = []
        for _ in range(3):  # the machine may be busy once
            ephemeral = new_ephemeral(url)
            calls = (seconds_of(ephemeral.command("GET", "x")) for _ in range(200))
            times.append(max(await asyncio.gather(*calls)))
            assert not ephemeral.alive
            await ephemeral.close()
        assert min(times) < 0.15


async def test_a_stall_of_our_own_loop_is_not_held_against_redis(
    new_ephemeral: NewEphemeral,
) -> None:
    async with server_that_says(b"+OK\r\n") as url:
        ephemeral = new_ephemeral(url)
        await ephemeral.command("PING")
        call = asyncio.create_task(ephemeral.command("PING"))
        await asyncio.sleep(0)
        _hold_the_loop_up(0.3)
        assert await call == b"OK"
        await ephemeral.close()


def _hold_the_loop_up(seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        pass


@pytest.mark.integration
class TestWithAServer:
    async def test_keys_start_with_the_prefix(self, ephemeral: Ephemeral) -> None:
        assert ephemeral.key("limit", "x").count(":") == 2
        await ephemeral.command("SET", ephemeral.key("a"), "1")
        assert await ephemeral.command("GET", ephemeral.key("a")) == b"1"

    async def test_a_forgotten_script_is_told_again(self, ephemeral: Ephemeral) -> None:
        assert await ephemeral.run(ECHO, [], "1") == b"1"
        await ephemeral.command("SCRIPT", "FLUSH")
        assert await ephemeral.run(ECHO, [], "2") == b"2"

    async def test_one_spoilt_key_does_not_close_the_room(
        self, ephemeral: Ephemeral
    ) -> None:
        await ephemeral.command("SET", ephemeral.key("text"), "x")
        with pytest.raises(EphemeralDown):
            await ephemeral.command("XADD", ephemeral.key("text"), "*", "a", "b")
        with pytest.raises(EphemeralDown):
            await ephemeral.run(Script("error('broken')"), [])
        assert ephemeral.alive

    async def test_a_reader_that_is_cut_off_does_not_close_the_room(
        self, ephemeral: Ephemeral
    ) -> None:
        read = ("XREAD", "BLOCK", 5000, "STREAMS", ephemeral.key("s"), "$")
        reader = asyncio.create_task(ephemeral.blocking(5.0, *read))

        async def cut_off() -> bool:
            clients = await ephemeral.command("CLIENT", "LIST")
            ours = [line for line in clients.decode().splitlines() if "cmd=xread" in line]
            for line in ours:
                number = line.split()[0].removeprefix("id=")
                await ephemeral.command("CLIENT", "KILL", "ID", number)
            return reader.done()

        await eventually_true(cut_off)
        with pytest.raises(EphemeralDown):
            await reader
        assert ephemeral.alive

    async def test_a_wrong_password_is_down_and_is_not_repeated(
        self, redis_url: str, new_ephemeral: NewEphemeral
    ) -> None:
        host = redis_url.partition("@")[2]
        ephemeral = new_ephemeral(f"redis://:s3cret-word@{host}")
        with pytest.raises(EphemeralDown) as refusal:
            await ephemeral.command("GET", "x")
        assert "s3cret-word" not in str(refusal.value)

    async def test_a_cancelled_call_leaves_the_next_ones_their_own_answers(
        self, ephemeral: Ephemeral
    ) -> None:
        for number in range(50):
            call = asyncio.create_task(ephemeral.run(ECHO, [], "cancelled"))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            call.cancel()
            assert await ephemeral.run(ECHO, [], str(number)) == str(number).encode()
            await asyncio.gather(call, return_exceptions=True)


@pytest.mark.integration
class TestWhenTheServerBreaks:
    async def test_it_is_used_again_once_a_probe_could_write(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        assert await ephemeral.run(ECHO, [], "1") == b"1"
        redis_server.kill()
        with pytest.raises(EphemeralDown):
            await ephemeral.run(ECHO, [], "1")
        redis_server.start()
        await eventually(lambda: ephemeral.alive)
        assert await ephemeral.run(ECHO, [], "1") == b"1"

    async def test_a_frozen_one_answers_within_150_ms_and_then_at_once(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        firsts, seconds = [], []
        for _ in range(3):  # the machine may be busy once
            ephemeral = new_ephemeral(redis_server.url, probe_every_s=0.05)
            await ephemeral.run(ECHO, [], "1")
            redis_server.pause()
            firsts.append(await seconds_of(ephemeral.run(ECHO, [], "1")))
            seconds.append(await seconds_of(ephemeral.run(ECHO, [], "1")))
            assert not ephemeral.alive
            redis_server.resume()
            await eventually(lambda: ephemeral.alive)  # noqa: B023
        assert min(firsts) < 0.15
        assert min(seconds) < 0.01

    async def test_a_read_only_one_stays_down_although_it_answers_pings(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.02)
        write = Script("return redis.call('SET', KEYS[1], 1)")
        with redis.Redis.from_url(redis_server.url) as admin:
            admin.replicaof("127.0.0.1", 1)
            with pytest.raises(EphemeralDown):
                await ephemeral.run(write, [ephemeral.key("a")])
            await asyncio.sleep(0.2)  # several probes
            assert not ephemeral.alive
            assert admin.ping()
            admin.replicaof("NO", "ONE")
        await eventually(lambda: ephemeral.alive)
        assert await ephemeral.run(write, [ephemeral.key("a")]) == b"OK"
