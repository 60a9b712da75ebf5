"""How working out what is next can fail. The job is dead then, and says where."""

from __future__ import annotations


class PlanFailed(Exception):
    """`plan()` cannot go on. `code` is the interface's, `step` the path of the step."""

    code = "template_failed"

    def __init__(self, step: str, path: str, detail: str) -> None:
        self.step = step
        self.path = path
        self.detail = detail
        what = f"{path} {detail}" if path else detail
        super().__init__(f"{step}: {what}")


class TemplateFailed(PlanFailed):
    """A path is missing or null, or a filter does not fit the value it names."""


class TooLarge(TemplateFailed):
    """A rendered request is larger than any model reads."""

    code = "too_large"

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(step, "", detail)
