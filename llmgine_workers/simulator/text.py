"""Tokens and sentences: counts by rule, and answers that read like an answer."""

import re
from itertools import islice
from random import Random

# The usual rule of thumb of 4 bytes to a token, made exact: rounded up, in UTF-8.
BYTES_PER_TOKEN = 4

_WORD = re.compile(r"\b[^\W\d_]{6,14}\b")
_DIRECTIVE = re.compile(r"\[\[sim:.*?\]\]", re.DOTALL)
_ECHO_FROM = 4000
_TOPICS = 24
# Longer words that name no thing and would read badly as one.
_NOT_TOPICS = frozenset((
    "across", "against", "almost", "already", "although", "another", "answer",
    "anything", "around", "because", "become", "becomes", "before", "behind", "between",
    "beyond", "describe", "during", "either", "enough", "everything", "explain",
    "itself", "nothing", "please", "rather", "return", "returns", "sentence",
    "sentences", "several", "should", "something", "summarise", "summarize",
    "themselves", "through", "throughout", "together", "toward", "towards", "translate",
    "unless", "various", "whether", "within", "without", "written",
))  # fmt: skip
_ECHO_SHARE = 0.7
_MAX_WORD_BYTES = 14

_PLAIN_TOPICS = (
    "the overall picture", "the first result", "the available evidence",
    "a short review", "the main question", "the wider context", "an earlier estimate",
    "the next step",
)  # fmt: skip
_OPENERS = (
    "In short,", "At the same time,", "As a result,", "On closer inspection,",
    "For most readers,", "Taken together,", "In practice,", "Compared with last year,",
    "Even so,", "More importantly,", "From the outset,", "By contrast,",
)  # fmt: skip
_VERBS = (
    "shapes", "supports", "explains", "follows from", "depends on", "changes", "limits",
    "points towards", "is closely tied to", "adds weight to", "sets the pace for",
)  # fmt: skip
_ENDS = (
    "in a way that can be measured", "more than it may seem", "without extra cost",
    "over the long run", "for everyone involved", "as the figures show",
    "with only small exceptions", "and the details bear that out", "at every step",
    "once the noise is set aside",
)  # fmt: skip
# Each is 4 bytes, so one token, longer than the last, from 0 to 32 bytes.
_CLOSINGS = (
    "",
    " too",
    " as well",
    " in this way",
    " in the same way",
    " in the same way too",
    " and in this way as well",
    " and in the same way as well",
    " and in the same way, as it were",
)
# A sentence is not cut right behind one of these, nor within its first words.
_OPEN_WORDS = frozenset((
    "a", "an", "and", "as", "at", "be", "bear", "can", "closely", "every", "for", "from",
    "in", "is", "it", "may", "more", "noise", "on", "once", "only", "over", "set", "sets",
    "small", "than", "that", "the", "tied", "to", "way", "wider", "with", "without",
))  # fmt: skip
_FIRST_WORDS = 6


def count_tokens(text: str) -> int:
    """How many tokens a text is billed as: its UTF-8 bytes / 4, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def truncate(text: str, tokens: int) -> str:
    """The longest beginning of `text` that counts as at most `tokens`."""
    data = text.encode("utf-8", "surrogatepass")[: tokens * BYTES_PER_TOKEN]
    while data:
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            data = data[: error.start]
    return ""


def topics_of(prompt: str) -> list[str]:
    """Some longer words of the prompt's end, in order, without its directives."""
    tail = _DIRECTIVE.sub(" ", prompt)[-_ECHO_FROM:]
    words = dict.fromkeys(_WORD.findall(tail))
    return list(islice(filter(_is_topic, words), _TOPICS))


def sentences(seed: int, topics: list[str], tokens: int) -> str:
    """Plain sentences around `topics`: exactly `tokens` tokens, a pure function."""
    rng = Random(seed)  # noqa: S311  nothing secret, it must repeat
    parts: list[str] = []
    size = 0
    while size < tokens * BYTES_PER_TOKEN:
        part = _sentence(rng, topics)
        parts.append(part)
        size += len(part.encode()) + 1
    return _fit(" ".join(parts), tokens)


def phrase(rng: Random) -> str:
    """A few plain words, for a string inside an object."""
    return f"{rng.choice(_PLAIN_TOPICS)} {rng.choice(_VERBS)} {rng.choice(_PLAIN_TOPICS)}"


def _is_topic(word: str) -> bool:
    if word.endswith("ly") or word.lower() in _NOT_TOPICS:
        return False
    return len(word.encode()) <= _MAX_WORD_BYTES


def _sentence(rng: Random, topics: list[str]) -> str:
    first, second = _topic(rng, topics), _topic(rng, topics)
    verb, end = rng.choice(_VERBS), rng.choice(_ENDS)
    return f"{rng.choice(_OPENERS)} {first} {verb} {second} {end}."


def _topic(rng: Random, topics: list[str]) -> str:
    echoed = topics and rng.random() < _ECHO_SHARE
    return rng.choice(topics if echoed else _PLAIN_TOPICS)


def _fit(text: str, tokens: int) -> str:
    """Cut at a word and close the sentence so that the count is met exactly."""
    cut = truncate(text, tokens)[:-1]
    at_word = cut.rsplit(" ", 1)[0] if " " in cut else cut
    for body in (_closable(at_word), at_word.rstrip(" ,.")):
        for closing in _CLOSINGS:
            if count_tokens(whole := body + closing + ".") == tokens:
                return whole
    return truncate(text, tokens)


def _closable(text: str) -> str:
    """The text without a last sentence just begun, or its last open words."""
    whole, dot, begun = text.rpartition(". ")
    words = begun.split()
    if dot and len(words) < _FIRST_WORDS:
        return whole
    while words and words[-1] in _OPEN_WORDS:
        words.pop()
    return (whole + dot + " ".join(words)).rstrip(" ,.")
