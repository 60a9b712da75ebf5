"""`/_sim/...`: what the simulator saw, and faults on demand while it runs.

GET    /_sim/calls?since=N&job=J&ended=cut   calls after number N, filtered by fields
GET    /_sim/summary
GET    /_sim/faults
POST   /_sim/faults {"kind": "503", "count": 3, "match": {"step": "draft"}}
DELETE /_sim/faults       DELETE /_sim/faults/ID
"""

from dataclasses import asdict
from typing import Any

from aiohttp import web

from llmgine_workers.simulator.call_log import CallLog, CallRecord
from llmgine_workers.simulator.faults import FaultBook, FaultRule, same
from llmgine_workers.simulator.wire import dump

_SETTABLE = frozenset(("kind", "count", "rate", "match", "delay", "retry_after"))
_FILTERS = frozenset(CallRecord.__dataclass_fields__)


def add_admin_routes(app: web.Application, faults: FaultBook, log: CallLog) -> None:
    """Put the admin endpoints on the application."""
    admin = _Admin(faults, log)
    app.router.add_get("/_sim/calls", admin.calls)
    app.router.add_get("/_sim/summary", admin.summary)
    app.router.add_get("/_sim/faults", admin.list_faults)
    app.router.add_post("/_sim/faults", admin.add_fault)
    app.router.add_delete("/_sim/faults", admin.clear_faults)
    app.router.add_delete(r"/_sim/faults/{id:\d+}", admin.clear_fault)


class _Admin:
    def __init__(self, faults: FaultBook, log: CallLog) -> None:
        self._faults = faults
        self._log = log

    async def calls(self, request: web.Request) -> web.Response:
        """Calls numbered above `since`; the ones still open have `ended` null."""
        filters = dict(request.query)
        since = filters.pop("since", "0")
        if not since.isdecimal():
            return _refused(f"since must be a number, got {since!r}")
        if unknown := filters.keys() - _FILTERS:
            return _refused(f"calls have no {', '.join(sorted(unknown))}")
        records = self._log.records
        found = [r.as_dict() for r in records[int(since) :] if _matches(r, filters)]
        return _answer({"calls": found, "last": len(records), "sim": self._log.sim})

    async def summary(self, _request: web.Request) -> web.Response:
        """Counts over all calls."""
        return _answer(self._log.summary())

    async def list_faults(self, _request: web.Request) -> web.Response:
        """The rules in force, with how often each has struck."""
        return _answer({"faults": [asdict(rule) for rule in self._faults.rules]})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Put one rule in force: 201 and the rule, 400 if it makes no sense."""
        try:
            given = await request.json()
            if unknown := set(given) - _SETTABLE:
                raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
            rule = FaultRule(**{**given, "kind": str(given["kind"])})
        except KeyError:
            return _refused("a fault needs a kind")
        except (ValueError, TypeError) as error:
            return _refused(str(error))
        return _answer(asdict(self._faults.add(rule)), 201)

    async def clear_faults(self, _request: web.Request) -> web.Response:
        """Lift all rules that were added."""
        return _answer({"removed": self._faults.clear()})

    async def clear_fault(self, request: web.Request) -> web.Response:
        """Lift one rule."""
        removed = self._faults.clear(int(request.match_info["id"]))
        return _answer({"removed": removed}, 200 if removed else 404)


def _matches(record: CallRecord, filters: dict[str, str]) -> bool:
    return all(same(getattr(record, name), want) for name, want in filters.items())


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=dump(value), status=status, content_type="application/json")


def _refused(detail: str) -> web.Response:
    return _answer({"error": detail}, 400)
