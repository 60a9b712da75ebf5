"""FastAPI and Celery, as one writes it: quorum queue, confirms, results in Redis."""

import os
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from openai import OpenAI
from pydantic import BaseModel

app = Celery("peer", broker=os.environ["AMQP_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_default_queue="peer.celery",
    task_default_queue_type="quorum",
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
)
api = FastAPI()
openai = OpenAI()


class Job(BaseModel):
    prompt: str
    stream: bool = False


@app.task(bind=True)
def ask(self: Any, prompt: str, stream: bool) -> str:
    asked: Any = {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": prompt}],
        "extra_headers": {"x-llmgine-job": self.request.id},
    }
    if not stream:
        return openai.chat.completions.create(**asked).choices[0].message.content or ""
    chunks = openai.chat.completions.create(**asked, stream=True)
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@api.post("/jobs", status_code=202)
def submit(job: Job) -> dict[str, str]:
    return {"id": ask.delay(job.prompt, job.stream).id}


@api.get("/jobs/{task}")
def show(task: str) -> dict[str, Any]:
    found = AsyncResult(task, app=app)
    return {"id": task, "output": found.result if found.successful() else None}
