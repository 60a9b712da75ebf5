"""FastAPI and Dramatiq: confirms (its queues are classic ones), results in Redis."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import CurrentMessage
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import RedisBackend
from fastapi import FastAPI
from openai import OpenAI
from pydantic import BaseModel

broker = RabbitmqBroker(url=os.environ["AMQP_URL"], confirm_delivery=True)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)
api = FastAPI()
openai = OpenAI()


class Job(BaseModel):
    prompt: str
    stream: bool = False


@dramatiq.actor(store_results=True, queue_name="peer.dramatiq")
def ask(prompt: str, stream: bool) -> str:
    message: Any = CurrentMessage.get_current_message()
    asked: Any = {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": prompt}],
        "extra_headers": {"x-llmgine-job": message.message_id},
    }
    if not stream:
        return openai.chat.completions.create(**asked).choices[0].message.content or ""
    chunks = openai.chat.completions.create(**asked, stream=True)
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@api.post("/jobs", status_code=202)
def submit(job: Job) -> dict[str, str]:
    return {"id": ask.send(job.prompt, job.stream).message_id}


@api.get("/jobs/{task}")
def show(task: str) -> dict[str, Any]:
    try:
        return {"id": task, "output": ask.message().copy(message_id=task).get_result()}
    except ResultMissing:
        return {"id": task, "output": None}
