"""The Dead letters tab: lists, groups, one letter, and replays, straight from the ledger.

Nothing is remembered here, so a restart loses nothing. Whoever acts has sent a form of
ours with its XSRF token; with --read-only nobody can.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler, authenticated, url

from llmgine_workers import clock, dead_letters
from llmgine_workers.engine import replays
from llmgine_workers.errors import LlmgineError
from llmgine_workers.ledger import letter_shapes
from llmgine_workers.ledger import replays as ledger_replays
from llmgine_workers.ledger.connection import LedgerDown
from llmgine_workers.ledger.letters import STATES, Wanted
from llmgine_workers.ledger.replays import Chosen
from llmgine_workers.monitor.rooms import Rooms

PAGE = 50
GROUPS = 200
TOLD = 50
"""Letters of a replay that its page names."""

FIELDS = ("tenant", "chain", "step", "pool", "code", "fingerprint", "since", "until")


class LetterPage(BaseHandler):  # type: ignore[misc]  # Flower has no annotations
    """What the pages of this tab have in common."""

    application: Any

    @property
    def rooms(self) -> Rooms:
        """The stores."""
        rooms: Rooms = self.application.rooms
        return rooms

    @property
    def operator(self) -> str:
        """Who acts, for the record."""
        (credentials,) = self.application.options.basic_auth
        return f"flower:{credentials.partition(':')[0]}"

    def show(self, template: str, **values: Any) -> None:
        """Render one of our templates."""
        is_read_only = self.application.options.read_only
        self.render(template, read_only=is_read_only, query=urlencode, **values)

    def given(self, name: str) -> str | None:
        """A filter as it was sent; None if it is empty."""
        text: str = self.get_argument(name, "", escape=False)
        if "\0" in text:
            raise HTTPError(400, f"{name} has a character U+0000")
        return text.strip() or None

    @property
    def filters(self) -> dict[str, str]:
        """What was asked for, as it goes into links and forms."""
        names = (*FIELDS, "state", "task")
        return {name: text for name in names if (text := self.given(name))}

    def wanted(self) -> Wanted:
        """The letters that were asked for; 400 for what makes no sense."""
        state = self.given("state") or "open"
        if state not in (*STATES, "any"):
            raise HTTPError(400, f"state is one of {', '.join(STATES)}, any")
        task = self.given("task")
        texts = {name: self.given(name) for name in FIELDS[:6]}
        return Wanted(
            **texts,
            since=self._moment("since"),
            until=self._moment("until"),
            state=None if state == "any" else state,
            task_id=as_uuid(task) if task else None,
        )

    def _moment(self, name: str) -> datetime | None:
        text = self.given(name)
        try:
            at = datetime.fromisoformat(text) if text else None
        except ValueError:
            raise HTTPError(400, f"{name} is a time such as 2026-11-20T12:00Z") from None
        return at.replace(tzinfo=at.tzinfo or clock.now().tzinfo) if at else None

    def check_xsrf_cookie(self) -> None:
        """Flower asks no token of basic authentication, which browsers send by
        themselves."""
        if self.current_user is None:
            raise HTTPError(401)
        super().check_xsrf_cookie()
        RequestHandler.check_xsrf_cookie(self)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A store that is away, or a refusal, in a sentence."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, LlmgineError):
            self.set_status(503 if isinstance(error, LedgerDown) else 409)
            self.render("404.html", message=str(error))
        elif status_code == 400 and isinstance(error, HTTPError):
            self.render("404.html", message=error.log_message)
        else:
            super().write_error(status_code, **kwargs)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """No traceback for what is no bug."""
        if not isinstance(value, LlmgineError):
            super().log_exception(typ, value, tb)


class Letters(LetterPage):
    """The list, newest first, with its filters."""

    @authenticated
    async def get(self) -> None:
        """A page of it."""
        before = self.given("before")
        found = await dead_letters.listed(
            self.rooms, self.wanted(), PAGE + 1, as_uuid(before) if before else None
        )
        following = found[PAGE - 1]["id"] if len(found) > PAGE else None
        self.show(
            "dead_letters.html", letters=found[:PAGE], filters=self.filters,
            fields=FIELDS, following=following,
        )  # fmt: skip


class Groups(LetterPage):
    """Letters that say the same."""

    @authenticated
    async def get(self) -> None:
        """All of them."""
        found = await dead_letters.groups(self.rooms, self.wanted(), GROUPS)
        self.show("dead_letter_groups.html", groups=found, filters=self.filters)


class Letter(LetterPage):
    """One letter with its calls."""

    @authenticated
    async def get(self, letter: str) -> None:
        """By its id or its job's."""
        found = await dead_letters.show(self.rooms, as_uuid(letter))
        if found is None:
            raise HTTPError(404, "no such dead letter")
        self.show("dead_letter.html", letter=found)


class Replay(LetterPage):
    """A replay, and how far it has come."""

    @authenticated
    async def get(self, replay: str) -> None:
        """With the first of its letters, and links to their new tasks."""
        id_ = as_uuid(replay)
        row = await ledger_replays.found(self.rooms.ledger, id_)
        if row is None:
            raise HTTPError(404, "no such replay")
        first = await ledger_replays.first_letters(self.rooms.ledger, id_, TOLD)
        for one in first:
            if one["job"] and one["run"] is not None:
                one["task"] = clock.task_id(one["job"], one["step"] or "", one["run"])
        self.show("replay.html", replay=letter_shapes.replay(row), letters=first)


class Act(LetterPage):
    """Forms: replay, discard and ignore letters, by ids or by the filters of a page."""

    @authenticated
    async def post(self, what: str) -> None:
        """403 with --read-only."""
        if self.application.options.read_only:
            raise HTTPError(403, "this Flower is read-only")
        ids = [as_uuid(text) for text in self.get_arguments("id")]
        if not ids and not set(self.filters) & set(FIELDS) and not self.given("all"):
            raise HTTPError(400, "neither ids nor filters: that would be every letter")
        chosen = Chosen(self.wanted(), ids or None)
        if what == "replay":
            await self._replay(chosen)
            return
        state = {"discard": "resolved", "ignore": "ignored"}[what]
        await dead_letters.close(self.rooms, ids or chosen.wanted, state, self.operator)
        self.redirect(self.reverse_url("dead letters"))

    async def _replay(self, chosen: Chosen) -> None:
        try:
            rate = float(self.given("rate") or replays.RATE)
            canary = int(self.given("canary") or 0)
        except ValueError:
            raise HTTPError(400, "rate and canary are numbers") from None
        asked = replays.Asked(chosen, self.operator, rate=rate, canary=canary)
        id_ = await replays.start(self.rooms, asked)
        self.redirect(self.reverse_url("replay", str(id_)))


class Abort(LetterPage):
    """The form on a replay's page."""

    @authenticated
    async def post(self, replay: str) -> None:
        """No more of its letters."""
        if self.application.options.read_only:
            raise HTTPError(403, "this Flower is read-only")
        await replays.abort(self.rooms, as_uuid(replay), self.operator)
        self.redirect(self.reverse_url("replay", replay))


def as_uuid(text: str) -> UUID:
    """404 for what is none."""
    try:
        return UUID(text)
    except ValueError:
        raise HTTPError(404, "not an id") from None


_ID = r"([0-9a-fA-F-]{32,36})"

HANDLERS = [
    url(r"/dead-letters", Letters, name="dead letters"),
    url(r"/dead-letters/groups", Groups, name="letter groups"),
    url(rf"/dead-letters/letter/{_ID}", Letter, name="dead letter"),
    url(rf"/dead-letters/replay/{_ID}", Replay, name="replay"),
    url(rf"/dead-letters/replay/{_ID}/abort", Abort, name="abort replay"),
    url(r"/dead-letters/(replay|discard|ignore)", Act, name="act on letters"),
]
"""Pages and forms, by names that templates link to."""
