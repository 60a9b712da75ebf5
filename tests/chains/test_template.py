"""The template language: what it fills in, keeps, and refuses."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.failures import TemplateFailed, TooLarge
from chains.template import TemplateRefused, dig, literal, parse, render

VALUES: dict[str, Any] = {
    "inputs": {
        "topic": "queues",
        "n": 3,
        "half": 0.5,
        "yes": True,
        "none": None,
        "empty": "",
        "list": ["a", "b", 3],
        "objects": [{"name": "x"}, {"name": "y"}],
        "ünïcode": 1,
        "dash-ed": "d",
    },
}


def filled(template: Any) -> Any:
    return render(template, lambda path: dig(VALUES, path), "draft")


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("On {{ inputs.topic }}.", "On queues."),
        ("{{inputs.topic}}{{  inputs.n\n}}", "queues3"),
        ("{{ inputs.n }}", 3),
        ("{{ inputs.list }}", ["a", "b", 3]),
        (" {{ inputs.n }}", " 3"),
        ("n={{ inputs.list }}", 'n=["a","b",3]'),
        ("{{ inputs.yes }}, {{ inputs.half }}", "true, 0.5"),
        ("{{ inputs.list.2 }}", 3),
        ("{{ inputs.objects.1.name }}", "y"),
        ("{{ inputs.dash-ed }}", "d"),
        ("{{ inputs.empty }}", ""),
        ("{{ inputs.none | default('-') }}", "-"),
        ("{{ inputs.gone.deep | default(5) }}", 5),
        ("{{ inputs.list.9 | default([]) }}", []),
        ("{{ inputs.gone | default({}) }}", {}),
        ("{{ inputs.gone | default(null) }}", None),
        ("a {{ inputs.gone | default(null) }}", "a null"),
        ("{{ inputs.gone | trim | default('x') | upper }}", "X"),
        ("{{ inputs.topic | default('-') }}", "queues"),
        ("{{ inputs.empty | default('-') }}", ""),
        ("{{ inputs.list | json }}", '["a","b",3]'),
        ("{{ inputs.topic | json }}", '"queues"'),
        ("{{ inputs.list | join(', ') }}", "a, b, 3"),
        ('{{ inputs.list | join("\\n") }}', "a\nb\n3"),
        ("{{ inputs.topic | truncate(3) }}", "que"),
        ("{{ inputs.list | truncate(4) }}", '["a"'),
        ("{{ inputs.topic | upper | lower | trim }}", "queues"),
        ("{{ inputs.topic | length }}", 6),
        ("{{ inputs.list | length }}", 3),
        ("{{ '{{' }} stays }}", "{{ stays }}"),
        ("{{ \"it's }} fine\" }}", "it's }} fine"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("{% for x in y %} ${x} %(x)s {0}", "{% for x in y %} ${x} %(x)s {0}"),
        ({"k": ["{{ inputs.n }}", 5, None]}, {"k": [3, 5, None]}),
        ({"{{ inputs.n }}": 1}, {"{{ inputs.n }}": 1}),
    ],
)  # fmt: skip
def test_a_template_is_filled_in(template: Any, value: Any) -> None:
    assert filled(template) == value
    assert type(filled(template)) is type(value)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("{{ inputs.gone }}", "inputs.gone"),
        ("x {{ inputs.none }}", "inputs.none"),
        ("{{ inputs.list.3 }}", "inputs.list.3"),
        ("{{ inputs.list.-1 }}", "inputs.list.-1"),
        ("{{ inputs.list.٢ }}", None),
        ("{{ inputs.topic.upper }}", "inputs.topic.upper"),
        ("{{ inputs.__class__ }}", "inputs.__class__"),
        ("{{ inputs.gone | upper }}", "inputs.gone"),
        ("{{ inputs.topic | join(', ') }}", "inputs.topic"),
        ("{{ inputs.n | length }}", "inputs.n"),
        ("{{ inputs.gone | default(null) | length }}", "inputs.gone"),
    ],
)
def test_what_is_missing_or_does_not_fit_names_step_and_path(
    template: str, path: str | None
) -> None:
    with pytest.raises(TemplateFailed) as caught:
        filled(template)
    assert (caught.value.code, caught.value.step) == ("template_failed", "draft")
    if path:
        assert caught.value.path == path
        assert str(caught.value).startswith(f"draft: {path} ")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{{ ''.__class__.__mro__ }}", "invalid_template"),
        ("{{ 9**9**9 }}", "invalid_template"),
        ("{{ 5 }}", "invalid_template"),
        ("{{ }}", "invalid_template"),
        ("{{", "invalid_template"),
        ("{{ inputs.x", "invalid_template"),
        ("{{ inputs.x }", "invalid_template"),
        ("{{{ inputs.x }}}", "invalid_template"),
        ("{{ inputs..x }}", "invalid_template"),
        ("{{ inputs.x. }}", "invalid_template"),
        ("{{ inputs['x'] }}", "invalid_template"),
        ("{{ inputs.x() }}", "invalid_template"),
        ("{{ inputs.x + 1 }}", "invalid_template"),
        ("{{ inputs.x | }}", "invalid_template"),
        ("{{ 'unclosed }}", "invalid_template"),
        ("{{ inputs.x | default }}", "invalid_template"),
        ("{{ inputs.x | default() }}", "invalid_template"),
        ("{{ inputs.x | default(1, 2) }}", "invalid_template"),
        ("{{ inputs.x | default(inputs.y) }}", "invalid_template"),
        ("{{ inputs.x | truncate('3') }}", "invalid_template"),
        ("{{ inputs.x | truncate(-3) }}", "invalid_template"),
        ("{{ inputs.x | truncate(1.5) }}", "invalid_template"),
        ("{{ inputs.x | join(3) }}", "invalid_template"),
        ("{{ inputs.x | upper(3) }}", "invalid_template"),
        ("{{ inputs.x | jsn }}", "unknown_filter"),
        ("{{ inputs.x | attr('__class__') }}", "unknown_filter"),
        ("{{ inputs.x | format }}", "unknown_filter"),
    ],
)
def test_what_is_no_template_is_refused_before_it_runs(text: str, code: str) -> None:
    with pytest.raises(TemplateRefused) as caught:
        parse("before " + text)
    assert (caught.value.code, caught.value.offset) == (code, len("before "))


def test_braces_inside_a_value_are_not_read_again() -> None:
    assert render("{{ x }}!", lambda _: "{{ inputs.secret }}", "a") == (
        "{{ inputs.secret }}!"
    )


_TEXTS = st.text(st.sampled_from("{}'\" |\\%an\n") | st.characters(codec="utf-8"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_JSON)
def test_a_literal_renders_to_itself_whatever_braces_it_holds(value: Any) -> None:
    assert filled(literal(value)) == value


@given(_TEXTS)
def test_a_text_without_double_braces_is_left_alone(text: str) -> None:
    plain = text.replace("{{", "{")
    while "{{" in plain:
        plain = plain.replace("{{", "{")
    assert filled(plain) == plain


@given(_JSON)
def test_a_value_alone_keeps_its_type_and_within_text_becomes_readable(
    value: Any,
) -> None:
    if value is None:
        return
    assert render("{{ x }}", lambda _: value, "a") == value
    within = render("<{{ x }}>", lambda _: value, "a")
    assert within.startswith("<")
    assert within.endswith(">")
    shown = within[1:-1]
    assert shown == value if isinstance(value, str) else json.loads(shown) == value


@given(st.text(st.sampled_from("{}|.()'\" inputs.xjson,0")))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    refused_at = None
    try:
        expressions = parse(text).expressions
    except TemplateRefused as refused:
        refused_at = refused.offset
    if refused_at is None:
        assert bool(expressions) == ("{{" in text)
    else:
        assert text.startswith("{{", refused_at)


@pytest.mark.parametrize(
    "text",
    [
        "{{ inputs.topic }} " * 20_000,
        "{" * 300_001,
        "{ {" * 100_000,
        "}}" * 200_000,
        "{{" + " " * 300_000,
        "{{ '" + "\\'" * 150_000,
        "{{ inputs.topic " + "| trim " * 40_000 + "}}",
        "{{ inputs" + ".a" * 150_000 + " | default(1) }}",
    ],
)
def test_reading_and_filling_take_time_in_line_with_the_length(text: str) -> None:
    started = time.perf_counter()
    with contextlib.suppress(TemplateFailed):
        filled(text)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "template",
    [
        "{{ inputs.big }}" * 50,
        ["{{ inputs.big }}"] * 50,
        {str(n): "{{ inputs.list }}" for n in range(50)},
        "{{ inputs.quotes " + "| json " * 60 + "}}",
    ],
)
def test_a_request_beyond_every_context_window_is_refused_not_built(
    template: Any,
) -> None:
    values = {
        "inputs": {
            "big": "x" * 100_000,
            "list": ["x" * 50_000] * 2,
            "quotes": '"' * 100,
        }
    }
    with pytest.raises(TooLarge, match="4194304 characters") as caught:
        render(template, lambda path: dig(values, path), "draft")
    assert (caught.value.code, caught.value.step) == ("too_large", "draft")


def test_a_join_that_would_be_too_large_is_refused_before_it_is_made() -> None:
    template = "{{ inputs.numbers | join('" + "x" * 60_000 + "') }}"
    with pytest.raises(TemplateFailed, match="comes to more than 4194304 characters"):
        render(template, lambda _: list(range(100_000)), "draft")
