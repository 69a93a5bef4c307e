"""A checkpoint beside its base: perplexity, a task file without a network, the record, and the table that `plan allocate --accuracy` reads."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planner.artifacts import read_json, write_artifact
from planner.corpus.store import Corpus
from planner.errors import InputError, PlannerWarning
from planner.evaluation import Evaluated, add_to_table, against, checkpoint_in, error_of, evaluate, name_of, record_of, save, windows
from planner.train.job import record_path

pytest.importorskip("torch")
pytest.importorskip("yaml", reason="PyYAML is not installed")

TASK = """
task: echoes
dataset_path: json
dataset_kwargs: {data_files: {test: echoes.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> tuple[Path, Path]:
    """A random checkpoint, and one that was trained to say "return" after anything."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.train.shared import checkpoint

    folder = tmp_path_factory.mktemp("models")
    base = checkpoint(folder / "base", corpus)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([tokenizer("def f(x): return " * 4)["input_ids"]])[:, :64]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    return base, folder / "tuned"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    lines = [{"question": "def f(x):", "choices": [" return", word], "label": 0} for word in (" zebra", " quick", " 77777", " junk")]
    (folder / "echoes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "echoes.yaml").write_text(TASK)
    return folder


def test_perplexity_beside_the_base(models: tuple[Path, Path], corpus: Corpus) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss

    base, tuned = (evaluate(path, corpus, None, [], seq_len=32, max_tokens=640) for path in models)
    loss, _ = heldout_loss(
        AutoModelForCausalLM.from_pretrained(models[0]), corpus.tokens("mail", "heldout"), 32, max_tokens=640, device=torch.device("cpu")
    )
    assert base.losses["loss_spec"] == pytest.approx(loss) and base.losses["perplexity_spec"] == pytest.approx(math.exp(loss))
    change = against(tuned, base)
    assert change["perplexity_spec_percent"] == pytest.approx(100 * (math.exp(tuned.losses["loss_spec"] - loss) - 1))
    assert set(change) == {f"{what}_{which}_percent" for what in ("perplexity", "bpb") for which in ("spec", "general")}
    with pytest.raises(InputError, match="longer than the 64 positions"):
        evaluate(models[0], corpus, None, [], seq_len=128)


def test_a_task_file_runs_without_a_network(models: tuple[Path, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    import socket

    from planner.train.harness import read_task, run_tasks, task_files

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert list(task_files(tasks)) == ["echoes"]
    task = read_task(tasks / "echoes.yaml")
    assert run_tasks(models[1], [task])["echoes"]["acc"] == 1.0
    lines = [json.loads(line) for line in (tasks / "echoes.jsonl").read_text().splitlines()]
    (tasks / "other.jsonl").write_text("".join(json.dumps({**line, "label": 1}) + "\n" for line in lines))
    wrong = {**task, "task": "wrong", "dataset_kwargs": {"data_files": {"test": str(tasks / "other.jsonl")}}}
    assert run_tasks(models[1], [wrong])["wrong"]["acc"] == 0.0
    with pytest.raises(InputError, match="cannot run the tasks"):
        run_tasks(models[1], [{**task, "output_type": "no_such_type"}])
    # What an index is called only the data say.
    (tasks / "other.jsonl").write_text("".join(json.dumps({**line, "key": "__class__"}) + "\n" for line in lines))
    with pytest.raises(InputError, match="access to attribute '__class__' of 'str' object is unsafe"):
        run_tasks(models[1], [{**wrong, "doc_to_text": "{{ question[key] }}"}])


@pytest.mark.parametrize(("content", "message"), [(None, "has no tokenizer.json"), ('{"model', "the tokenizer of checkpoint .* cannot be read")])
def test_tasks_need_a_tokenizer(models: tuple[Path, Path], tmp_path: Path, content: str | None, message: str) -> None:
    """An empty one would score something all the same."""
    from planner.train.harness import _tokenizer

    folder = tmp_path / "copy"
    shutil.copytree(models[1], folder, ignore=shutil.ignore_patterns("tok*", "special*"))
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=message):
        _tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("output_type: multiple_choice", "output_type: multiple_choice\nprocess_docs: !function utils.run"), "tag !function, which would run code"),
        (("task: echoes", "task: echoes\nclass: Own"), "states class"),
        (("task: echoes", "task: echoes\ninclude: other.yaml"), "states include"),
        (("test: echoes.jsonl", "test: ../secrets.jsonl"), "lies outside its folder"),
        (("test: echoes.jsonl", "test: none.jsonl"), "does not exist"),
        (("task: echoes", "name: echoes"), "names no task"),
        (("task: echoes", "task: ["), "cannot be read"),
        (("{{question}}", "{{ cycler.__init__.__globals__.os.system('id') }}"), "renders templates without a sandbox"),
        (("{{question}}", "{{ cycler }}"), "with cycler"),
        (("{{question}}", "{{ question.__class__ }}"), "with __class__"),
        (("{{question}}", "{{ question['__class__'] }}"), "with __class__"),
        (("{{question}}", "{{ question[question ~ '_'] }}"), "with a computed index"),
        (("{{question}}", "{{ question.format(label) }}"), "with call"),
        (("{{question}}", "{{ question.strip(*choices) }}"), "with call"),
        (("{{question}}", "{{ question.strip().encode() }}"), "with call"),
        (("{{question}}", "{{ strip(question) }}"), "with call"),
        (("{{question}}", "{{ question.strip(cycler) }}"), "with cycler"),
        (("{{question}}", "{% if question is callable %}{% endif %}"), "with the test callable"),
        (("{{question}}", "{{ question * 10000 }}"), "with mul"),
        (("{{question}}", "{% set x = question %}"), "with assign"),
        (("{{question}}", "{{ question | attr('x') }}"), "with the filter attr"),
        (("{{question}}", "{{ [question] | join('', 'x') }}"), "with the filter join"),
        (("{{question}}", "{% include 'x' %}"), "with include"),
        (("{{question}}", "{{ question"), "malformed template"),
        (("doc_to_choice: choices", 'doc_to_choice: ["{{label}}", "{{question}}"]'), "the harness does not render items of a list"),
        (("{metric: acc,", "{metric: /path/evil.py,"), "has metric = '/path/evil.py'"),
        (("{metric: acc,", "{metric: acc, hf_evaluate: true,"), "states hf_evaluate in metric_list"),
        (("{data_files:", "{trust_remote_code: true, data_files:"), "states trust_remote_code in dataset_kwargs"),
        (("{data_files: {test: echoes.jsonl}}", "5"), "dataset_kwargs = 5"),
        (("dataset_kwargs: {data_files: {test: echoes.jsonl}}", ""), "names no data"),
        (("test: echoes.jsonl", "test: zip://a::b"), "is not a file name"),
        (("dataset_path: json", "dataset_path: someone/dataset"), "dataset_path = 'someone/dataset'"),
        (("test_split: test", "test_split: test\nprocess_results: x"), "states process_results"),
        (("test_split: test", "test_split: test\ngeneration_kwargs: {custom_generate: x}"), "states custom_generate in generation_kwargs"),
    ],
)
def test_task_files_bring_no_code_and_no_other_files(tasks: Path, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    from planner.train.harness import read_task

    (tmp_path / "echoes.jsonl").write_bytes((tasks / "echoes.jsonl").read_bytes())
    (tmp_path / "echoes.yaml").write_text(TASK.replace(*change))
    with pytest.raises(InputError, match=message):
        read_task(tmp_path / "echoes.yaml")


@pytest.mark.parametrize(
    "template",
    [
        "{{question|trim}} {{choices[label]}}", "{{choices[0][1:]}}, {{choices[-1]}}", "{{a.b}} {{a['b']}}", "plain {x}",
        # As tasks of the harness have them: arc, openbookqa, gsm8k, siqa, mgsm.
        "{{question.strip()}}", "{{choices.label.index(answerKey.lstrip())}}", "{{answer.split('####')[-1].strip() if answer is defined else target}}",
        "{{label - 1}}", "{% if answer != None %}{{question + ':'}}{% else %}{{question}}{% endif %}",
    ],
)  # fmt: skip
def test_plain_templates_are_let_through(tasks: Path, tmp_path: Path, template: str) -> None:
    from planner.train.harness import read_task

    (tmp_path / "echoes.jsonl").write_bytes((tasks / "echoes.jsonl").read_bytes())
    (tmp_path / "echoes.yaml").write_text(TASK.replace("{{question}}", template))
    assert read_task(tmp_path / "echoes.yaml")["doc_to_text"] == template


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "tpu"), "--device 'tpu' is not known"),
        (("--device", "cuda"), "torch finds no GPU"),
        (("--table", "a.csv"), "no accuracy would be measured"),
        (("--table", "other.csv", "--tasks", "echoes"), "does not have all of the columns"),
        (("--table", "text.csv", "--tasks", "echoes"), "has losses on the held-out text aaaa/mail, but these are on"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(
    models: tuple[Path, Path], corpus: Corpus, options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from typer.testing import CliRunner

    from planner.cli.main import app

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("planner.evaluation.evaluate", None)
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n")
    Path("text.csv").write_text("model,task,metric,loss,accuracy,fingerprint,heldout_text\nm,echoes,acc,3.0,0.5,,aaaa/mail\n")
    result = CliRunner().invoke(app, ["evaluate", str(models[0]), "--corpus", str(corpus.folder), *options])
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.output


def test_it_goes_into_the_record_of_a_launch(tmp_path: Path) -> None:
    write_artifact(tmp_path / "launch.json", "launch", 1, {"run_id": "r"})
    write_artifact(record_path(tmp_path, "r"), "run", 1, {"row": {"loss_spec": 3.0}}, {"a": "b"})
    mine, base = Evaluated(tmp_path, {"perplexity_spec": 9.0}, {"t": {"acc": 0.5}}), Evaluated(tmp_path, {"perplexity_spec": 12.0}, {"t": {"acc": 0.3}})
    (tmp_path / "checkpoint").mkdir()
    save(tmp_path / "evaluation.json", mine, base, None, record_of(tmp_path / "checkpoint"))
    record = read_json(record_path(tmp_path, "r"))
    assert record["row"] == {"loss_spec": 3.0} and record["inputs"] == {"a": "b"}
    assert record["evaluation"]["change"] == {"perplexity_spec_percent": pytest.approx(-25.0), "t_acc": pytest.approx(0.2)}
    assert read_json(tmp_path / "evaluation.json")["tasks"] == {"t": {"acc": 0.5}}
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint_in(tmp_path)


@pytest.mark.parametrize("name", ["../../victim/records/r", "/tmp/r", "..", "", 5])
def test_a_record_outside_the_launch_is_not_written(tmp_path: Path, name: object) -> None:
    write_artifact(record_path(tmp_path / "victim", "r"), "run", 1, {"row": {"status": "ok"}})
    write_artifact(tmp_path / "launch" / "launch.json", "launch", 1, {"run_id": name})
    with pytest.raises(InputError, match=f"a run named {name!r} cannot lie in .*launch; restore"):
        record_of(tmp_path / "launch" / "checkpoint")


def test_a_filtered_metric_is_an_accuracy_too(tmp_path: Path) -> None:
    """As of tasks that generate, such as gsm8k: the harness names the filter of the answers after the metric."""
    values = {"sample_len": 9.0, "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.1, "exact_match,flexible-extract": 0.5}
    mine, base = (Evaluated(tmp_path, {"loss_spec": 2.0}, {"t": {**values, "exact_match,strict-match": value}}) for value in (0.75, 0.25))
    assert mine.accuracies == {"t": ("exact_match,strict-match", 0.75)} and mine.tasks["t"][error_of("exact_match,strict-match")] == 0.1
    assert against(mine, base) == {"t_exact_match,strict-match": 0.5}
    assert add_to_table(tmp_path / "accuracy.csv", {"model": mine}) == 1 and error_of("acc") == "acc_stderr"


def test_the_table_is_what_allocate_reads(tmp_path: Path) -> None:
    from planner.allocate.accuracy import read_table

    path = tmp_path / "accuracy.csv"
    for number in range(6):
        one = Evaluated(tmp_path, {"loss_spec": 3.0 - number / 10}, {"t": {"acc": 0.3 + number / 10, "acc_norm": 0.31 + number / 10}, "u": {"ppl": 3.0}})
        assert add_to_table(path, {f"model{number}": one}) == number + 1
    assert add_to_table(path, {"model5": Evaluated(tmp_path, {"loss_spec": 2.4}, {"t": {"acc": 0.9}})}) == 6, "the same model is not written twice"
    table = read_table(path)
    assert table.loss[-1] == 2.4 and table.accuracy[-1] == 0.9 and table.accuracy[0] == pytest.approx(0.31)
    with pytest.raises(InputError, match="has no accuracy"):
        add_to_table(path, {"model6": Evaluated(tmp_path, {"loss_spec": 2.0}, {"u": {"ppl": 3.0}})})
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="does not have all of the columns"):
        add_to_table(tmp_path / "other.csv", {"model5": one})
    with path.open() as file:
        assert next(csv.reader(file)) == ["model", "task", "metric", "loss", "accuracy", "fingerprint", "heldout_text"]


def test_losses_on_two_texts_are_not_put_into_one_table(tmp_path: Path) -> None:
    from planner.allocate.accuracy import read_table

    path = tmp_path / "accuracy.csv"
    path.write_text("model,task,metric,loss,accuracy\nold,t,acc,4.0,0.2\n")  # by hand

    def one(number: int, text: str) -> dict[str, Evaluated]:
        return {f"m{number}": Evaluated(tmp_path, {"loss_spec": 3.0 - number / 10}, {"t": {"acc": 0.3 + number / 10}}, text=text)}

    for number in range(5):
        add_to_table(path, one(number, "aaaa/mail"))
    assert len(read_table(path).loss) == 6
    before = path.read_text()
    for text in ("bbbb/mail", "aaaa/code"):
        with pytest.raises(InputError, match=f"has losses on the held-out text aaaa/mail, but these are on {text} .corpus/domain.; name a new file"):
            add_to_table(path, one(5, text))
    assert path.read_text() == before
    path.write_text(before + "m5,t,acc,2.4,0.9,,bbbb/mail\n")
    with pytest.raises(InputError, match="losses on several held-out texts .corpus/domain., which are not comparable: aaaa/mail, bbbb/mail; keep"):
        read_table(path)


def test_another_checkpoint_of_the_same_name_has_rows_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.csv"
    path.write_text("model,task,metric,loss,accuracy\nold,t,acc,4.0,0.2\n")  # of an earlier version

    def one(loss: float, fingerprint: str) -> dict[str, Evaluated]:
        return {"model": Evaluated(tmp_path, {"loss_spec": loss}, {"t": {"acc": 0.5}}, 32, 640, fingerprint)}

    assert add_to_table(path, one(3.0, "aaaa")) == 2 and add_to_table(path, one(2.9, "aaaa")) == 2
    for loss in (2.0, 1.9):
        with pytest.warns(PlannerWarning, match="already has another checkpoint named model: .* is entered as model-bbbbbbbb"):
            assert add_to_table(path, one(loss, "bbbbbbbbbb")) == 3
    with path.open() as file:
        assert [(row["model"], row["loss"]) for row in csv.DictReader(file)] == [("old", "4.0"), ("model", "2.9"), ("model-bbbbbbbb", "1.9")]
    assert name_of(tmp_path / "first" / "checkpoint") == "first" and name_of(tmp_path / "first") == "first"


def test_both_checkpoints_are_measured_on_the_same_windows(models: tuple[Path, Path], corpus: Corpus, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from planner.cli.main import app
    from tests.train.shared import checkpoint

    short = checkpoint(tmp_path / "short", corpus, max_position_embeddings=48)
    assert windows(models[0], None) == (64, 65536) and windows(models[0], short) == windows(short, models[0]) == (48, 65536)
    assert windows(models[0], short, 16, 100) == (16, 100)
    place = tmp_path / "sweep" / "checkpoints" / "run"
    shutil.copytree(models[1], place)
    assert windows(place, None) == (64, 65536), "no record"
    record = {"row": {}, "recipe": {"seq_len": 32}}
    write_artifact(record_path(tmp_path / "sweep", "run"), "run", 1, {**record, "eval_tokens": 640})
    assert windows(place, models[0]) == (32, 640)
    measured = CliRunner().invoke(app, ["evaluate", str(place), "--corpus", str(corpus.folder)])
    assert measured.exit_code == 0 and read_json(record_path(tmp_path / "sweep", "run"))["evaluation"]["eval_tokens"] == 640
    launch = tmp_path / "launch"
    shutil.copytree(models[1], launch / "checkpoint")
    write_artifact(launch / "launch.json", "launch", 1, {"run_id": "r"})
    write_artifact(record_path(launch, "r"), "run", 1, record)  # as earlier versions wrote it
    (launch / "allocation.json").write_text(json.dumps({"source": {"eval_tokens": 500}}))
    assert windows(checkpoint_in(launch), models[0]) == (32, 500)
    (launch / "launch.json").unlink()  # that of several domains lies above
    write_artifact(record_path(launch, "r"), "run", 1, {**record, "eval_tokens": 300})
    assert windows(checkpoint_in(launch), models[0]) == (32, 300)
    options = ["evaluate", str(models[1]), "--corpus", str(corpus.folder), "--base", str(short), "--eval-tokens", "640", "--out", str(tmp_path / "e.json")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    body, alone = read_json(tmp_path / "e.json"), evaluate(short, corpus, None, [], seq_len=48, max_tokens=640)
    assert (body["seq_len"], body["eval_tokens"]) == (48, 640) and body["base"]["losses"]["loss_spec"] == pytest.approx(alone.losses["loss_spec"])
    assert body["losses"] == pytest.approx(evaluate(models[1], corpus, None, [], seq_len=48, max_tokens=640).losses)


def test_all_measures_of_a_task_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from planner.cli.evaluate import show

    tasks = {"sciq": {"sample_len": 9.0, "acc": 0.5, "acc_stderr": 0.125, "acc_norm": 0.75}, "text": {"word_perplexity": 12345.6, "bits_per_byte": 1.5}}
    show(Evaluated(tmp_path, {}, tasks), Evaluated(tmp_path, {}, {"sciq": {"acc": 0.25, "acc_norm": 0.8}}))
    out, _ = capsys.readouterr()
    rows = [" ".join(line.split()) for line in out.splitlines()]
    sciq = ("sciq (acc) 0.250 0.500 ± 0.125 +0.250", "sciq (acc_norm) 0.800 0.750 -0.050")
    shown = (*sciq, "text (word_perplexity) 1.235e+04", "text (bits_per_byte) 1.500")
    for row in shown:
        assert any(row in line for line in rows), (row, out)
    assert "sample_len" not in out and "acc_stderr" not in out
    show(Evaluated(tmp_path, {"loss_spec": 2.5}, {"sciq": {"acc": 0.5}}), None)
    out, _ = capsys.readouterr()
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert {"checkpoint", "specialist nats/token 2.5", "sciq (acc) 0.500"} <= set(rows) and "base" not in out  # nothing to hold it against


def test_names_of_tasks_may_have_spaces_after_their_commas(tasks: Path) -> None:
    from planner.cli.evaluate import _tasks

    first, second = _tasks("echoes, sciq", tasks)
    assert isinstance(first, dict) and first["task"] == "echoes" and second == "sciq"


_BESIDE = """
import subprocess, sys
from planner.train.harness import _quiet
print("{")
with _quiet():
    print("bootstrapping for stddev: perplexity")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('fatal: not a git repository')"], check=True)
print("}")
print("after it", file=sys.stderr)
"""


def test_what_the_harness_and_its_helpers_write_beside_the_answer_is_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", _BESIDE], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n}\n", "after it\n"), "the answer may be JSON"
