"""How working out what is next can fail. The step has failed then, and says why."""

from __future__ import annotations


class PlanFailed(Exception):
    """A step cannot be planned. `code` is the interface's, `step` the step's path."""

    code = "template_failed"

    def __init__(self, step: str, path: str, detail: str) -> None:
        self.step = step
        self.path = path
        self.detail = detail
        self.message = f"{path} {detail}" if path else detail
        super().__init__(f"{step}: {self.message}")


class TemplateFailed(PlanFailed):
    """A path is missing or null, or a filter does not fit the value it names."""


class ExpressionFailed(PlanFailed):
    """A condition cannot be evaluated, or its value is of the wrong kind."""

    code = "expression_failed"


class LoopLimit(PlanFailed):
    """A loop has no turn, or no money, left, and its condition does not hold."""

    code = "loop_limit"

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(step, "", detail)


class TooLarge(TemplateFailed):
    """A rendered request is larger than any model reads."""

    code = "too_large"

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(step, "", detail)
