"""What a chain must come to: a recursive interpreter that knows nothing of `plan()`.

It runs every step where it stands, once, in reading order, and has its own reading of
the few templates and conditions that `random_chains` writes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_PATH = re.compile(r"^\{\{ ([\w.]+)(?: \| default\((-?\d+)\))? \}\}$")
_CONDITION = re.compile(r"^([\w.]+) % (\d+) (==|!=) (\d+)$")


class StepFails(Exception):
    """A step has no output, and nothing stands in for it."""


def work(path: str, arguments: Any, failing: bool) -> dict[str, Any]:
    """What the tool of these tests returns; some paths fail, if any may."""
    number = zlib.crc32(f"{path} {_told(arguments)}".encode())
    if failing and number % 6 == 0:
        raise StepFails
    return {"n": number % 10, "list": list(range(number % 4)), "seen": arguments}


def _told(value: Any) -> Any:
    """Without which of several failures a map's item is told to have failed by."""
    if isinstance(value, list):
        return [_told(member) for member in value]
    if isinstance(value, dict):
        return "?" if "error" in value else {k: _told(v) for k, v in value.items()}
    return value


@dataclass
class Oracle:
    """One run of one chain; `failures` counts also those that were got over."""

    failing: bool
    failures: int = 0
    calls: list[str] = field(default_factory=list)

    def run(self, chain: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The chain's output; StepFails if it fails."""
        return self._block(chain, "", {"inputs": inputs})

    def _block(self, block: Mapping[str, Any], prefix: str, names: dict[str, Any]) -> Any:
        done = self._list(block["steps"], prefix, names)
        if "output" in block:
            return _filled(block["output"], done)
        return done["steps"][block["steps"][-1]["name"]] if block["steps"] else None

    def _list(
        self, steps: list[Any], prefix: str, names: dict[str, Any]
    ) -> dict[str, Any]:
        ended: dict[str, Any] = {}
        visible = {**names, "steps": {**names.get("steps", {})}}
        for step in steps:
            visible["steps"].pop(step["name"], None)  # an outer one is hidden
        failed = False
        previous: list[str] = []
        for step in steps:
            needs = step.get("needs", previous)
            previous = [step["name"]]
            if not all(name in ended for name in needs):
                continue
            try:
                ended[step["name"]] = self._step(step, prefix + step["name"], visible)
                visible["steps"][step["name"]] = ended[step["name"]]
            except StepFails:
                failed = True
        if failed:
            raise StepFails
        return visible

    def _step(self, step: Mapping[str, Any], path: str, names: dict[str, Any]) -> Any:
        try:
            if "when" in step and not _holds(step["when"], names):
                return None
            return self._kind(step, path, names)
        except StepFails:
            self.failures += 1
            if "fallback" in step:
                return step["fallback"]
            raise

    def _kind(self, step: Mapping[str, Any], path: str, names: dict[str, Any]) -> Any:
        if "tool" in step:
            arguments = _filled(step["tool"]["arguments"], names)
            self.calls.append(path)
            return work(path, arguments, self.failing)
        if "parallel" in step:
            return self._parallel(step["parallel"], path, names)
        if "branch" in step:
            for number, case in enumerate(step["branch"]):
                if "if" not in case or _holds(case["if"], names):
                    return self._block(case, f"{path}.{number}.", names)
            return None
        if "map" in step:
            return self._map(step["map"], path, names)
        if "loop" in step:
            return self._loop(step["loop"], path, names)
        inner, given = step["chain"]["use"], _filled(step["chain"]["inputs"], names)
        return self._block(inner, f"{path}.", {"inputs": given})

    def _parallel(self, lists: Mapping[str, Any], path: str, names: Any) -> Any:
        outputs, failed = {}, False
        for branch, steps in lists.items():
            try:
                outputs[branch] = self._block(
                    {"steps": steps}, f"{path}.{branch}.", names
                )
            except StepFails:
                failed = True
        if failed:
            raise StepFails
        return outputs

    def _map(self, spec: Mapping[str, Any], path: str, names: Any) -> Any:
        items = _look(spec["over"], names)
        if not isinstance(items, list):
            raise StepFails
        outputs: list[Any] = []
        failed = False
        for index, item in enumerate(items):
            try:
                own = {**names, "item": item, "index": index}
                outputs.append(self._block(spec, f"{path}.{index}.", own))
            except StepFails:
                failed = failed or spec["on_error"] == "fail"
                if spec["on_error"] == "collect":
                    outputs.append({"error": ...})
        if failed:
            raise StepFails
        return outputs

    def _loop(self, spec: Mapping[str, Any], path: str, names: Any) -> Any:
        last: dict[str, Any] = {}
        for turn in range(spec["max_iterations"]):
            own = {**names, "index": turn, "last": last}
            done = self._list(spec["steps"], f"{path}.{turn}.", own)
            own_names = [step["name"] for step in spec["steps"]]
            last = {name: done["steps"][name] for name in own_names}
            if _holds(spec["until"], done):
                return (
                    _filled(spec["output"], done)
                    if "output" in spec
                    else last[own_names[-1]]
                )
        raise StepFails


def _look(path: str, names: Mapping[str, Any]) -> Any:
    root, *words = path.split(".")
    value = names.get(root)
    if root in ("steps", "last"):
        value = (value or {}).get(words[0])
        words = words[2:]  # behind the word output
    for word in words:
        value = value.get(word) if isinstance(value, dict) else None
    return value


def _holds(condition: str, names: Mapping[str, Any]) -> bool:
    found = _CONDITION.match(condition)
    assert found, condition
    value = _look(found[1], names)
    if type(value) is not int:
        raise StepFails
    return (value % int(found[2]) == int(found[4])) is (found[3] == "==")


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(member, names) for key, member in value.items()}
    if not isinstance(value, str):
        return value
    found = _PATH.match(value)
    assert found, value
    looked = _look(found[1], names)
    if looked is None and found[2] is None:
        raise StepFails
    return int(found[2]) if looked is None else looked
