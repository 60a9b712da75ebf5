"""Which call fails and how: by rate, by a rule set at run time, by a word in the prompt.

Answered with an error status: 400 401 403 404 413 429 500 502 503 504 529, `quota` (the
account is empty) and `context` (the prompt is too long). The others break the transport:

    reset            TCP RST before any byte
    cut              the connection is dropped in the middle of the body
    truncated        the body ends early but cleanly: a stream without a finish reason
    hang             accepted, never answered, until the client leaves
    garbage          200 with something that is not the format
    empty            200 without a body
    error_in_stream  an error event in mid-stream (a plain call gets a 500)
    slow             complete and right, but `delay` seconds later (5 unless told)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from llmgine_workers.simulator.chance import draw

STATUS_OF = {
    **{str(s): s for s in (400, 401, 403, 404, 413, 429, 500, 502, 503, 504, 529)},
    "quota": 429,
    "context": 400,
}
TRANSPORT_KINDS = frozenset(
    ("reset", "cut", "truncated", "hang", "garbage", "empty", "error_in_stream", "slow")
)
KINDS = frozenset(STATUS_OF) | TRANSPORT_KINDS
MATCHABLE = frozenset(
    ("wire", "endpoint", "model", "job", "step", "attempt", "fence", "stream")
)
SLOW_DELAY = 5.0


@dataclass(slots=True)
class FaultRule:
    """Fail calls that match: `count` times (None: for ever), each with chance `rate`.

    `match` compares fields of the call's record (wire, endpoint, model, job, step,
    attempt, fence, stream). `delay`: seconds before it strikes. ValueError if senseless.
    """

    kind: str
    count: int | None = None
    rate: float = 1.0
    match: Mapping[str, object] = field(default_factory=dict)
    delay: float | None = None
    retry_after: float = 1.0
    id: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            known = " ".join(sorted(KINDS))
            raise ValueError(f"there is no fault {self.kind!r}, only {known}")
        if unknown := set(self.match) - MATCHABLE:
            raise ValueError(f"cannot match {sorted(unknown)}, only {sorted(MATCHABLE)}")
        if not 0 <= self.rate <= 1:
            raise ValueError("a rate is between 0 and 1")
        if self.count is not None and self.count < 1:
            raise ValueError("a count is at least 1")
        if (self.delay or 0) < 0 or self.retry_after < 0:
            raise ValueError("delay and retry_after are not negative")

    @property
    def delay_s(self) -> float:
        """Seconds before it strikes."""
        if self.delay is not None:
            return self.delay
        return SLOW_DELAY if self.kind == "slow" else 0.0

    def fits(self, call: object) -> bool:
        """Whether it is still in force and every field of `match` is as in the record."""
        if self.count is not None and self.fired >= self.count:
            return False
        return all(same(getattr(call, name), want) for name, want in self.match.items())


def same(value: object, want: object) -> bool:
    """Whether a record's field is as wished, however a client wrote it down."""
    return str(value).lower() == str(want).lower()


class FaultBook:
    """The rules in force, and how often each prompt's own directives have struck."""

    def __init__(self, seed: int, rates: Mapping[str, float]) -> None:
        self._seed = seed
        self._ids = count(1)
        self._rates = [FaultRule(kind, rate=rate) for kind, rate in rates.items()]
        self._struck: Counter[tuple[object, ...]] = Counter()
        self.rules: list[FaultRule] = []

    def add(self, rule: FaultRule) -> FaultRule:
        """Put a rule in force; older rules win. Answers it with its id."""
        rule.id = next(self._ids)
        self.rules.append(rule)
        return rule

    def clear(self, rule_id: int | None = None) -> int:
        """Lift one rule, or all that were added. Answers how many."""
        kept = [r for r in self.rules if rule_id is not None and r.id != rule_id]
        removed = len(self.rules) - len(kept)
        self.rules = kept
        return removed

    def pick(
        self,
        call: object,
        n: int,
        wishes: tuple[FaultRule, ...],
        about: tuple[object, ...],
    ) -> FaultRule | None:
        """The fault of call number `n`: the prompt's wish, else a rule, else by rate.

        `about` names what a wish's `times` counts for: the job and step.
        """
        for place, wish in enumerate(wishes):
            key = (*about, place, wish.kind)
            if wish.count is None or self._struck[key] < wish.count:
                self._struck[key] += 1
                return wish
        for rule in self.rules:
            if rule.fits(call) and draw(self._seed, "rule", rule.id, n) < rule.rate:
                rule.fired += 1
                return rule
        return self._by_rate(n)

    def _by_rate(self, n: int) -> FaultRule | None:
        share = draw(self._seed, "fault", n)
        for rule in self._rates:
            if share < rule.rate:
                return rule
            share -= rule.rate
        return None
