"""Render conversations as text with a chat template, and locate the responses in it. Templates are rendered as transformers renders them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.artifacts import read_json, write_text
from planner.corpus.tokenizer import END
from planner.errors import InputError, importing

FILE = "chat_template.jinja"
_MARKS = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")
"""Tags with which some templates mark the response; ignored, since a response is found as what follows its rendered prompt."""
_EXAMPLE = (
    "state [chat] template in corpus.toml, such as \"{% for message in messages %}<{{ message.role }}>{{ message.content }}\\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}\""
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """First and last (excluded) character of each response, including the template's text that closes it."""


class ChatTemplate:
    """A chat template, ready to render."""

    def __init__(self, source: str, special: dict[str, str]) -> None:
        """Compile a template; it runs in Jinja's sandbox.

        Args:
            source: the template.
            special: bos_token, eos_token and so on.

        Raises:
            InputError: the template is malformed.
            MissingDependencyError: jinja2 is not installed.
        """
        with importing("jinja2"):
            from jinja2 import TemplateError
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        self.source = source
        self._special = special
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(_MARKS.sub(lambda found: f"{found[1]}{'endif' if found[2] else 'if true'}{found[3]}", source))
        except (TemplateError, RecursionError) as error:
            raise InputError(f"the chat template is malformed: {error}", remedy="correct it; it is Jinja, like a tokenizer's chat_template") from error

    @classmethod
    def of(cls, stated: str | None, tokenizer: Path | None) -> ChatTemplate:
        """Take the template that is stated, or else that of a tokenizer's folder.

        Raises:
            InputError: there is none.
        """
        config = read_json(tokenizer / "tokenizer_config.json") if tokenizer and (tokenizer / "tokenizer_config.json").is_file() else {"eos_token": END}
        source = stated
        if source is None and tokenizer is not None:
            source = (tokenizer / FILE).read_text(encoding="utf-8") if (tokenizer / FILE).is_file() else _default(config.get("chat_template"))
        if not source:
            raise InputError("pairs need a chat template, and the tokenizer has none", remedy=_EXAMPLE)
        named = {key: config.get(key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        return cls(source, {key: str(value["content"] if isinstance(value, dict) else value) for key, value in named.items() if value is not None})

    def render(self, messages: Sequence[dict[str, str]]) -> Rendered:
        """Render a conversation and find its responses.

        Raises:
            InputError: the template refuses the messages, or writes a prompt differently once its response follows.
        """
        whole = self._text(messages, False)
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, answered = self._text(messages[:number], True), self._text(messages[: number + 1], False)
            if not answered.startswith(prompt) or not whole.startswith(answered.rstrip()):
                raise InputError(
                    "the chat template writes a prompt differently once its response follows, so responses cannot be located",
                    remedy="state a simpler [chat] template in corpus.toml",
                )
            spans.append((len(prompt), len(whole) if number == len(messages) - 1 else min(len(answered), len(whole))))
        return Rendered(whole, tuple(spans))

    def save(self, folder: Path) -> None:
        """Write the template beside a tokenizer, where transformers looks for it."""
        write_text(folder / FILE, self.source)

    def _text(self, messages: Sequence[dict[str, str]], generate: bool) -> str:
        try:
            # transformers passes tools and documents even if there are none, and templates test whether they are none.
            return self._template.render(messages=list(messages), tools=None, documents=None, add_generation_prompt=generate, **self._special)
        except Exception as error:  # a template can raise any kind, from its operators and filters too
            what = str(error) or type(error).__name__
            raise InputError(f"the chat template refuses a conversation: {what}", remedy="correct the pairs or the template") from error


class _Refused(Exception):
    """What a template raises."""


def _raise(message: str) -> Any:
    raise _Refused(message)


def _default(stated: Any) -> str | None:
    """Take the template out of a tokenizer's configuration, where there may be several by name."""
    if isinstance(stated, list):
        named = {str(item.get("name")): item.get("template") for item in stated if isinstance(item, dict)}
        stated = named.get("default")
    return stated if isinstance(stated, str) else None
