"""Where a reader of a job's events stands, over any number of connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx2

from llmgine_workers.client import calls
from llmgine_workers.client.answers import refuse_unless_success, unreachable
from llmgine_workers.client.calls import Call, JobRef
from llmgine_workers.client.errors import BadAnswer, Unavailable
from llmgine_workers.client.events import Event, JobFinished, event_of
from llmgine_workers.client.patience import Patience

SILENCE_S = 45.0
"""Three of the gateway's pings (one in 15 s) that did not come: nobody is there."""
_MEDIA_TYPE = "text/event-stream"


class Following:
    """Follows one job: asks for what comes after the last event that was seen."""

    def __init__(self, url: str, job: JobRef, after: int, retry_s: float) -> None:
        self._url = url
        self._call = Call("GET", calls.job_path(job, "events"), read_s=SILENCE_S)
        self._after = after
        self._patience = Patience(retry_s)
        self._pause_s = 0.0
        self._at_end = self._all_told = False

    def next_call(self) -> Call | None:
        """The request to send next; None when all is told."""
        if self._all_told:
            return None
        seen = {"Last-Event-ID": str(self._after)} if self._after else {}
        return replace(self._call, headers=seen, pause_s=self._pause_s)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Around one connection: however it ends, `next_call` knows how to go on."""
        try:
            yield
        except httpx2.SSEError as error:
            raise BadAnswer(str(error)) from error
        except httpx2.RequestError as error:
            self._pause_s = self._patience.bear(unreachable(self._url, error))
        except Unavailable as trouble:
            self._pause_s = self._patience.bear(trouble)
        else:
            # A gateway that stops closes too, but not behind the job's last event.
            self._all_told = self._all_told or self._at_end
            self._pause_s = self._patience.back_off_s()

    def opened(self, response: httpx2.Response) -> bool:
        """Whether events follow. A refusal's body must have been read."""
        refuse_unless_success(response)
        self._patience.answered()
        self._all_told = response.status_code == httpx2.codes.NO_CONTENT
        if not self._all_told:
            _check_media_type(response)
        return not self._all_told

    def event(self, frame: httpx2.ServerSentEvent) -> Event:
        """The event of a frame that came."""
        try:
            event = event_of(frame.json())
        except ValueError as error:
            raise BadAnswer(f"an event is not JSON: {error}") from error
        self._after = event.seq
        self._at_end = isinstance(event, JobFinished)
        self._patience.progressed()
        return event


def _check_media_type(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _MEDIA_TYPE:
        raise BadAnswer(f"a stream of events is {_MEDIA_TYPE}, not {kind!r}")
