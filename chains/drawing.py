"""A chain as a Mermaid flowchart: boxes for steps, frames for lists of them.

flowchart TD
  outline["outline<br/>llm · fast"]
  outline --> summary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chains.chain import Block, Chain, Step

_INDENT = "  "


def mermaid(chain: Chain) -> str:
    """The drawing, for any Markdown that shows Mermaid."""
    lines = ["flowchart TD", *_list(chain.steps, "", 1)]
    return "\n".join(lines) + "\n"


def _list(steps: Sequence[Step], prefix: str, depth: int) -> Iterator[str]:
    previous: tuple[str, ...] = ()
    for step in steps:
        node = prefix + step.name
        yield from _step(step, node, depth)
        for needed in previous if step.needs is None else step.needs:
            yield f"{_INDENT * depth}{prefix}{needed} --> {node}"
        previous = (step.name,)


def _step(step: Step, node: str, depth: int) -> Iterator[str]:
    inner = list(_inside(step))
    if not inner:
        yield f'{_INDENT * depth}{node}["{_label(step)}"]'
        return
    yield f'{_INDENT * depth}subgraph {node}["{_label(step)}"]'
    for word, title, steps in inner:
        below = f"{node}__{word}" if word else node
        if title:
            yield f'{_INDENT * (depth + 1)}subgraph {below}["{title}"]'
        yield from _list(steps, f"{below}__", depth + 1 + bool(title))
        if title:
            yield f"{_INDENT * (depth + 1)}end"
    yield f"{_INDENT * depth}end"


def _inside(step: Step) -> Iterator[tuple[str, str, Sequence[Step]]]:
    """The lists inside a step: a word for the nodes, a title, the steps."""
    for name, steps in (step.parallel or {}).items():
        yield name, name, steps
    for number, case in enumerate(step.branch or ()):
        title = _quoted(f"if {case.condition}" if case.condition else "else")
        yield str(number), title, case.steps
    whole: Block | None = step.map or step.loop
    if step.chain and isinstance(step.chain.use, Chain):
        whole = step.chain.use
    if whole:
        yield "", "", whole.steps


def _label(step: Step) -> str:
    about = [step.kind, *_about(step)]
    if step.when:
        about.append(f"when {step.when}")
    return f"{step.name}<br/>{_quoted(' · '.join(about))}"


def _about(step: Step) -> Iterator[str]:
    called = step.llm or step.embed
    if called and called.model:
        yield called.model[0]
    if step.tool:
        yield step.tool.use
    if step.map:
        yield f"over {step.map.over}"
    if step.loop:
        yield f"until {step.loop.until}"
    if step.chain:
        use = step.chain.use
        yield use.name if isinstance(use, Chain) else use


def _quoted(text: str) -> str:
    """Without what ends a label or begins markup."""
    for character, entity in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;")):
        text = text.replace(character, entity)
    return text
