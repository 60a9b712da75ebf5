"""Where our pages come from: our templates before Flower's, and our links in its own.

Flower's navigation and its page of a task are taken as they are, with one link more put
into each; a Flower that looks different one day loses the link and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tornado.template import Loader, Template

_OURS = Path(__file__).parent / "templates"

_TAB = """<li class="nav-item">
          <a class="nav-link{% if active_tab == 'dead letters' %} active{% end %}"
            href="{{ reverse_url('dead letters') }}"
            {% if active_tab == 'dead letters' %}aria-current="page"{% end %}
            >Dead letters</a>
        </li>
      </ul>
"""
_LETTER_OF_TASK = """<div class="detail-row task-data-row">
        <dt>Dead letter</dt>
        <dd><a href="{{ reverse_url('dead letters') }}?state=any&amp;task={{ url_escape(task.uuid) }}">of this task, if its step failed for good</a></dd>
      </div>
      <div class="detail-row detail-row-code task-data-row">
        <dt>Arguments</dt>"""  # noqa: E501

ADDED = {
    "navbar.html": ("</ul>\n", _TAB),
    "task.html": (
        '<div class="detail-row detail-row-code task-data-row">\n'
        "        <dt>Arguments</dt>",
        _LETTER_OF_TASK,
    ),
}
"""By Flower's template: the text that the link takes the place of, once, and the link."""


class Pages(Loader):
    """Templates by name: ours, then Flower's."""

    def __init__(self, flowers: str, **kwargs: Any) -> None:
        super().__init__(flowers, **kwargs)

    def _create_template(self, name: str) -> Template:
        ours = _OURS / name
        if ours.exists():
            return Template(ours.read_bytes(), name=name, loader=self)
        if name not in ADDED:
            return super()._create_template(name)
        text = (Path(self.root) / name).read_text("utf-8")
        return Template(text.replace(*ADDED[name], 1), name=name, loader=self)
