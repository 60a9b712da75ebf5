"""Random chains of every kind, and random schedules of their steps.

    python -m tests.chains.random_chains 100000 [FIRST_SEED]

A schedule plays the ledger: it ends steps in any order, also twice, several at once,
and forgets plans before they were written, as a process does that dies.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chains import Chain, JobFacts, Plan, StepResult, load_chain, plan
from tests.chains.oracle import Oracle, StepFails, work

INPUTS = {"n": 4, "list": [1, 2, 3]}
JOB = JobFacts("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11")
DECIDING = ("parallel", "map", "branch", "loop", "chain")


@dataclass
class Author:
    """Writes chains of up to a dozen written steps, and counts what is in them.

    No two steps have the same name: which of two a path means has tests of its own.
    """

    chance: random.Random
    kinds: Counter[str] = field(default_factory=Counter)
    left: int = 12
    depth: int = 0
    written: int = 0

    def chain(self) -> dict[str, Any]:
        """A whole chain."""
        steps = self.steps(4, {}, numbered=False)
        return {"name": "random", "inputs": {"n": {}, "list": {}}, "steps": steps}

    def steps(
        self, deep: int, outer: dict[str, str], *, numbered: bool
    ) -> list[dict[str, Any]]:
        """A list of steps; `outer` are names they may use and their kinds, `numbered`
        says whether there is an `index`."""
        self.depth = max(self.depth, 5 - deep)
        steps: list[dict[str, Any]] = []
        for _ in range(self.chance.randint(1, 3)):
            self.written += 1
            step: dict[str, Any] = {"name": f"s{self.written}"}
            ended = self._needs(step, steps)
            kinds = {one["name"]: _kind(one) for one in steps if one["name"] in ended}
            names = {**outer, **kinds}
            if self.chance.random() < 0.25:
                step["when"] = self._condition(names)
            if self.chance.random() < 0.2:
                step["fallback"] = self.chance.randint(0, 99)
            step.update(self._what(deep, names, numbered))
            steps.append(step)
        return steps

    def _needs(self, step: dict[str, Any], above: list[dict[str, Any]]) -> set[str]:
        """Write the step's needs, or not; what has ended before it."""
        needs = [above[-1]["name"]] if above else []
        if self.chance.random() < 0.3:
            names = [one["name"] for one in above]
            step["needs"] = needs = self.chance.sample(
                names, self.chance.randint(0, len(names))
            )
        return _closed(above, needs)

    def _what(self, deep: int, names: dict[str, str], numbered: bool) -> dict[str, Any]:
        self.left -= 1
        kind = "tool"
        if deep and self.left > 0 and self.chance.random() < 0.65:
            kind = self.chance.choice(DECIDING)
        self.kinds[kind] += 1
        return {kind: getattr(self, f"_{kind}")(deep - 1, names, numbered)}

    def _tool(self, _: int, names: dict[str, str], numbered: bool) -> dict[str, Any]:
        arguments = {"a": self._value(names)}
        if numbered and self.chance.random() < 0.5:
            arguments["turn"] = "{{ index }}"
        return {"use": "look", "arguments": arguments}

    def _parallel(self, deep: int, names: dict[str, str], numbered: bool) -> Any:
        count = self.chance.randint(1, 3)
        return {
            branch: self.steps(deep, names, numbered=numbered) for branch in "xyz"[:count]
        }

    def _map(self, deep: int, names: dict[str, str], numbered: bool) -> Any:
        over = [f"steps.{name}.output.list" for name, k in names.items() if k == "tool"]
        spec: dict[str, Any] = {
            "over": self.chance.choice([*over, "inputs.list"]),
            "on_error": self.chance.choice(["fail", "skip", "collect"]),
            "steps": self.steps(deep, names, numbered=True),
        }
        if self.chance.random() < 0.5:
            spec["concurrency"] = self.chance.randint(1, 2)
        if self.chance.random() < 0.3:
            spec["output"] = {"of": "{{ item }}"}
        return spec

    def _branch(self, deep: int, names: dict[str, str], numbered: bool) -> Any:
        cases = [
            {
                "if": self._condition(names),
                "steps": self.steps(deep, names, numbered=numbered),
            }
            for _ in range(self.chance.randint(1, 2))
        ]
        if self.chance.random() < 0.5:
            cases.append({"steps": [], "output": self._value(names)})
        return cases

    def _loop(self, deep: int, names: dict[str, str], numbered: bool) -> Any:
        del numbered
        steps = self.steps(deep, names, numbered=True)
        tools = [s["name"] for s in steps if "tool" in s and "when" not in s]
        until = f"steps.{tools[0]}.output.n % 3 == 0" if tools else "index % 3 == 1"
        spec = {
            "until": until,
            "max_iterations": self.chance.randint(2, 6),
            "steps": steps,
        }
        if tools:
            first = next(s for s in steps if "tool" in s)
            last = f"{{{{ last.{first['name']}.output.n | default(0) }}}}"
            first["tool"]["arguments"]["last"] = last
        return spec

    def _chain(self, deep: int, names: dict[str, str], numbered: bool) -> Any:
        del numbered
        inner = {
            "name": "inner",
            "inputs": {"n": {}, "list": {}},
            "steps": self.steps(deep, {}, numbered=False),
        }
        given = {"n": self._value(names), "list": "{{ inputs.list }}"}
        return {"use": inner, "inputs": given}

    def _value(self, names: dict[str, str]) -> Any:
        """A text that may be null only where that is meant to fail."""
        paths = [f"steps.{name}.output" for name in names]
        path = self.chance.choice([*paths, "inputs.n"])
        return f"{{{{ {path}{self.chance.choice(['', ' | default(7)'])} }}}}"

    def _condition(self, names: dict[str, str]) -> str:
        tools = [f"steps.{name}.output.n" for name, k in names.items() if k == "tool"]
        path = self.chance.choice([*tools, "inputs.n"])
        compared = self.chance.choice(["==", "!="])
        return f"{path} % 3 {compared} {self.chance.randint(0, 2)}"


def _kind(step: dict[str, Any]) -> str:
    return next(k for k in ("tool", *DECIDING) if k in step)


def _closed(steps: list[dict[str, Any]], needs: list[str]) -> set[str]:
    """What has ended before a step with these needs."""
    before: dict[str, set[str]] = {}
    previous: list[str] = []
    for step in steps:
        needed = step.get("needs", previous)
        before[step["name"]] = {
            name for one in needed for name in {one, *before.get(one, ())}
        }
        previous = [step["name"]]
    return {name for one in needs for name in {one, *before[one]}}


@dataclass
class Schedule:
    """One chain, run by `plan()` alone; `calls` are the steps that were done."""

    chain: Chain
    chance: random.Random
    failing: bool
    results: dict[str, StepResult] = field(default_factory=dict)
    begun: dict[str, Any] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def run(self) -> Plan:
        """Until the chain has ended or failed."""
        planned = self._commit()
        for _ in range(5000):
            if planned.finished or planned.failed:
                return planned
            before = dict(self.results)
            for path in self._some_open():
                self._end(path)
            if self.chance.random() < 0.1:  # it dies before it could commit
                self.results = before
            else:
                planned = self._commit()
        raise AssertionError(f"not ended: {sorted(self.begun.keys() - self.results)}")

    def _commit(self) -> Plan:
        """One transaction: what the plan says is written, and it is asked again while
        what nobody wants any more could be passed over."""
        planned = plan(self.chain, INPUTS, self.results, JOB, self.begun)
        if planned.failed:
            return planned
        idle = [path for path in planned.unwanted if path not in self.running]
        if idle:
            self.results |= dict.fromkeys(idle, StepResult("skipped"))
            return self._commit()
        for step in planned.ready:
            assert step.path not in self.begun, f"{step.path} was planned twice"
            self.begun[step.path] = step.request["arguments"]
        self.results |= {one.path: StepResult("skipped") for one in planned.skipped}
        return planned

    def _some_open(self) -> list[str]:
        waiting = [path for path in self.begun if path not in self.results]
        assert waiting, "nothing runs and nothing is ready: stuck"
        chosen = self.chance.sample(waiting, self.chance.randint(1, min(4, len(waiting))))
        self.running |= set(chosen)
        return chosen[:1] if self.chance.random() < 0.3 else chosen

    def _end(self, path: str) -> None:
        if path not in self.calls:  # a call is paid once: its result waits for a commit
            self.calls.append(path)
        try:
            output = work(path, self.begun[path], self.failing)
            self.results[path] = StepResult("succeeded", output)
        except StepFails:
            self.results[path] = StepResult("failed", error={"code": "tool_failed"})


def check(seed: int) -> Author:
    """One random chain, run once by a random schedule and once by the oracle."""
    chance = random.Random(seed)  # noqa: S311 - repeatable by its seed
    author = Author(chance)
    definition = author.chain()
    failing = chance.random() < 0.5
    oracle = Oracle(failing)
    schedule = Schedule(load_chain(definition), chance, failing)
    planned = schedule.run()
    try:
        wanted = oracle.run(definition, INPUTS)
    except StepFails:
        assert planned.failed, f"seed {seed}: it should have failed"
        return author
    assert not planned.failed, f"seed {seed}: {planned.failed}"
    assert same(planned.output, wanted), f"seed {seed}: {planned.output} != {wanted}"
    if not oracle.failures:  # else it depends on when a failure came
        assert sorted(schedule.calls) == sorted(oracle.calls), f"seed {seed}"
    assert not schedule.begun.keys() - schedule.results.keys(), f"seed {seed}"
    return author


def same(found: Any, wanted: Any) -> bool:
    """Equal, but for which of several failures an item is told to have failed by."""
    if wanted == {"error": ...}:
        return isinstance(found, dict) and found.keys() == {"error"}
    if isinstance(wanted, dict) and isinstance(found, dict):
        return found.keys() == wanted.keys() and all(
            same(found[key], wanted[key]) for key in wanted
        )
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


def main(runs: int, first: int = 0) -> None:
    """Check so many chains; the first that is wrong stops with its seed."""
    kinds: Counter[str] = Counter()
    for seed in range(first, first + runs):
        kinds += check(seed).kinds
    sys.stdout.write(f"{runs} chains agree with the oracle: {dict(kinds)}\n")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
