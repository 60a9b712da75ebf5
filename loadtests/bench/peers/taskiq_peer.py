"""FastAPI and Taskiq: asyncio throughout, a quorum queue, results in Redis."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI
from openai import AsyncOpenAI
from pydantic import BaseModel
from taskiq import Context, TaskiqDepends
from taskiq_aio_pika import AioPikaBroker, Queue
from taskiq_redis import RedisAsyncResultBackend

results: Any = RedisAsyncResultBackend(os.environ["REDIS_URL"])
# As many unacknowledged messages as tasks at once: with the default, 10 would run.
broker = AioPikaBroker(os.environ["AMQP_URL"], qos=int(os.environ["CONCURRENCY"]))
broker = broker.with_queue(Queue(name="peer.taskiq")).with_result_backend(results)
openai = AsyncOpenAI()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


api = FastAPI(lifespan=lifespan)


class Job(BaseModel):
    prompt: str
    stream: bool = False


@broker.task
async def ask(prompt: str, stream: bool, me: Annotated[Context, TaskiqDepends()]) -> str:
    asked: Any = {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": prompt}],
        "extra_headers": {"x-llmgine-job": me.message.task_id},
    }
    if not stream:
        answer = await openai.chat.completions.create(**asked)
        return answer.choices[0].message.content or ""
    chunks = await openai.chat.completions.create(**asked, stream=True)
    return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])


@api.post("/jobs", status_code=202)
async def submit(job: Job) -> dict[str, str]:
    return {"id": (await ask.kiq(job.prompt, job.stream)).task_id}  # type: ignore[call-overload]


@api.get("/jobs/{task}")
async def show(task: str) -> dict[str, Any]:
    ready = await results.is_result_ready(task)
    return {
        "id": task,
        "output": (await results.get_result(task)).return_value if ready else None,
    }
