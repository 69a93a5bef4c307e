"""Pairs: rendered as transformers renders them, losses of responses only, and what is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.corpus.build import build_corpus
from planner.corpus.chat import ChatTemplate
from planner.corpus.config import Source, TokenizerSettings, read_settings
from planner.corpus.sources import read_pairs
from planner.corpus.store import Corpus
from planner.errors import InputError, PlannerWarning
from tests.conftest import settings

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{{ bos_token }}{%- for message in messages %}\n{%- if message.role == 'assistant' -%}\n {% generation %}{{ message.content | trim }}{{ eos_token }}"
    "{% endgeneration %}\n{%- else -%} [INST] {{ message.content }} [/INST]{%- endif -%}{%- endfor -%}"
)
TOOLS = "{% if tools is not none or documents is not none %}<|im_start|>system\nYou have tools.<|im_end|>\n{% endif %}" + CHATML
TALK = [
    {"role": "user", "content": "What is Zürich?"}, {"role": "assistant", "content": "A city on a lake."},
    {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Switzerland – in the north."},
]  # fmt: skip


@pytest.mark.parametrize("template", [CHATML, MARKED, TOOLS])
def test_text_is_that_of_transformers_and_spans_are_the_responses(corpus: Corpus, template: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(corpus.tokenizer_path)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    rendered = ChatTemplate(template, special).render(TALK)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    assert rendered.text == tokenizer.apply_chat_template(TALK, tokenize=False, chat_template=template)
    answers = [rendered.text[start:stop] for start, stop in rendered.spans]
    close = "</s>" if template is MARKED else "<|im_end|>\n"
    assert [answer.strip() for answer in answers] == [(TALK[1]["content"] + close).strip(), (TALK[3]["content"] + close).strip()]


def test_a_template_that_hides_its_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="responses cannot be located"):
        ChatTemplate("{{ messages | length }}{{ messages[-1].content }}", {}).render(TALK)
    with pytest.raises(InputError, match="malformed"):
        ChatTemplate("{% if %}", {})
    with pytest.raises(InputError, match="refuses a conversation: no roles"):
        ChatTemplate("{{ raise_exception('no roles') }}", {}).render(TALK)
    for wrong in ("{{ messages[0].content + 1 }}", "{% for x in range(1000000) %}{% endfor %}"):
        with pytest.raises(InputError, match="refuses a conversation: .*(concatenate|[Rr]ange)"):
            ChatTemplate(wrong, {}).render(TALK)
    with pytest.raises(InputError, match="refuses"):  # the sandbox keeps templates from Python's own objects
        ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}", {}).render(TALK)


def pairs(count: int) -> list[dict[str, str]]:
    answers = [" ".join(f"It is word{(k * 7 + n) % 83}" for n in range(3 + k % 4)) + "." for k in range(count)]
    return [{"prompt": f"What is number {k}?", "response": answer} for k, answer in enumerate(answers)]


@pytest.fixture(scope="module")
def paired(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    (text_folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs(400)))
    stated = settings(text_folder)
    wanted = replace(stated, sources=(stated.sources[0], Source("asked", "pairs", "pairs.jsonl")), near_duplicates=False, chat_template=CHATML)
    return build_corpus(wanted, tmp_path_factory.mktemp("paired") / "corpus")[0]


def test_only_responses_count(paired: Corpus) -> None:
    from planner.corpus.tokenizer import open_tokenizer

    tokenizer, end = open_tokenizer(paired.tokenizer_path)
    tokens, mask, offsets = paired.tokens("asked", "heldout"), paired.mask("asked", "heldout"), paired.offsets("asked", "heldout")
    assert mask is not None and paired.mask("general", "heldout") is None and len(mask) == len(tokens)
    known = {pair["prompt"]: pair["response"] for pair in pairs(400)}
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        ids, counts = np.asarray(tokens[start:stop]), np.asarray(mask[start:stop]).astype(bool)
        prompt = tokenizer.decode(ids[~counts].tolist(), skip_special_tokens=False)
        answer = tokenizer.decode(ids[counts].tolist(), skip_special_tokens=False)
        question = prompt.split("user\n")[1].split("<|im_end|>")[0]
        assert prompt.endswith("assistant\n") and answer == known[question] + "<|im_end|>\n<|endoftext|>"
        assert ids[-1] == end and counts[-1]
    entry = paired.account["domains"]["asked"]
    assert entry["targets_heldout"] == int(np.asarray(mask).sum()) < entry["tokens_heldout"]
    assert paired.bytes_per_token("asked") == pytest.approx(entry["target_bytes_heldout"] / entry["targets_heldout"])
    assert (paired.tokenizer_path / "chat_template.jinja").read_text() == CHATML


@pytest.mark.parametrize("talk", [TALK, [*TALK, {"role": "user", "content": "Thanks"}]])
def test_the_end_token_counts_where_it_closes_a_response(talk: list[dict[str, str]]) -> None:
    from planner.corpus.duplicates import make_document
    from planner.corpus.shards import target_mask

    rendered = ChatTemplate(CHATML, {}).render(talk)
    offsets = [(place, place + 1) for place in range(len(rendered.text))]
    mask = target_mask(make_document(rendered.text, "x", 0.0, rendered.spans), offsets, len(offsets) + 1)
    assert mask[-1] == mask[-2] == (talk is TALK) and mask.sum() > 20


def test_a_mask_that_was_cut_is_noticed(paired: Corpus) -> None:
    paired.check_shards(["general", "asked"])
    mask = paired.folder / "asked" / "train.mask.bin"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:-5])
    try:
        with pytest.raises(InputError, match=rf"train.mask.bin holds {len(whole) - 5} bytes, but .* says {len(whole)}"):
            paired.check_shards(["general", "asked"])
    finally:
        mask.write_bytes(whole)


def test_messages_and_templates_of_fields(text_folder: Path, tmp_path: Path) -> None:
    from planner.corpus.sources import read_pairs

    (tmp_path / "a.jsonl").write_text(json.dumps({"talk": TALK}) + "\n")
    assert list(read_pairs(Source("asked", "pairs", "a.jsonl", messages="talk"), tmp_path)) == [(TALK, f"{tmp_path / 'a.jsonl'}, line 1")]
    (tmp_path / "b.json").write_text(json.dumps({"x": {"label": "ague", "meaning": "a fever"}}))
    found = [messages for messages, _ in read_pairs(Source("asked", "pairs", "b.json", prompt="What is {label}?", response="meaning"), tmp_path)]
    assert found == [[{"role": "user", "content": "What is ague?"}, {"role": "assistant", "content": "a fever"}]]
    with pytest.raises(InputError, match="entry x has no field 'sense'"):
        list(read_pairs(Source("asked", "pairs", "b.json", prompt="label", response="sense"), tmp_path))
    (tmp_path / "c.jsonl").write_text(json.dumps({"talk": TALK[:1]}) + "\n")
    with pytest.raises(InputError, match="no list of messages with a response"):
        list(read_pairs(Source("asked", "pairs", "c.jsonl", messages="talk"), tmp_path))
    with pytest.raises(InputError, match="beside a prompt"):
        Source("asked", "pairs", "c.jsonl", messages="talk", prompt="label")
    with pytest.raises(InputError, match="are for pairs only"):
        Source("asked", "jsonl", "c.jsonl", prompt="label")


def test_pairs_without_a_template_are_refused_and_that_of_the_tokenizer_is_taken(text_folder: Path, tmp_path: Path, paired: Corpus) -> None:
    stated = settings(text_folder)
    wanted = replace(stated, sources=(stated.sources[0], Source("asked", "pairs", "pairs.jsonl")), near_duplicates=False)
    with pytest.raises(InputError, match="the tokenizer has none"):
        build_corpus(wanted, tmp_path / "none")
    again = build_corpus(replace(wanted, tokenizer=TokenizerSettings(path=str(paired.tokenizer_path))), tmp_path / "same")[0]
    assert again.fingerprint == paired.fingerprint


def test_settings_of_pairs_are_read(tmp_path: Path) -> None:
    text = '[chat]\ntemplate = "{{ messages }}"\n[[source]]\ndomain = "general"\nkind = "txt"\npath = "a"\n'
    text += '[[source]]\ndomain = "asked"\nkind = "pairs"\npath = "p.jsonl"\nprompt = "q"\nresponse = "a"\n'
    (tmp_path / "corpus.toml").write_text(text)
    read = read_settings(tmp_path)
    assert read.chat_template == "{{ messages }}" and read.sources[1].prompt == "q"
    (tmp_path / "corpus.toml").write_text(text.replace('"{{ messages }}"', "3"))
    with pytest.raises(InputError, match="chat template = 3"):
        read_settings(tmp_path)


def test_a_conversation_that_the_template_refuses_is_named_by_file_and_line(text_folder: Path, tmp_path: Path) -> None:
    lines = [*pairs(3), {"prompt": "forbidden", "response": "all the same"}]
    (text_folder / "refused.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in lines))
    template = "{% if messages[0].content == 'forbidden' %}{{ raise_exception('no such prompt') }}{% endif %}" + CHATML
    stated = settings(text_folder)
    wanted = replace(stated, sources=(stated.sources[0], Source("asked", "pairs", "refused.jsonl")), chat_template=template)
    with pytest.raises(InputError, match=r"refused\.jsonl, line 4: the chat template refuses a conversation: no such prompt; correct the pairs"):
        build_corpus(wanted, tmp_path / "corpus")


def test_pairs_that_are_left_out_for_an_empty_field_are_told(tmp_path: Path) -> None:
    """Most of Alpaca's records have no input, and a template of fields skips them."""
    records = [{"instruction": f"Say {k}.", "input": "" if k % 3 else "loudly", "output": str(k)} for k in range(9)]
    (tmp_path / "alpaca.json").write_text(json.dumps(records))
    source = Source("talk", "pairs", "alpaca.json", prompt="{instruction} {input}", response="output")
    with pytest.warns(PlannerWarning, match="6 of the 9 records of .*alpaca.json are left out: a field of their prompt"):
        assert len(list(read_pairs(source, tmp_path))) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_pairs(replace(source, prompt="instruction"), tmp_path))) == 9
