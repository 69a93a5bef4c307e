"""Sweeps on a Ray cluster of several nodes, each a set of real processes: the same table, whatever dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from planner.corpus.store import Corpus
from planner.engines.event import MAX_DEATHS, Event
from planner.engines.local import LocalEngine
from planner.engines.ray import RayEngine, import_ray
from planner.engines.worker import Report, Runner, train
from planner.errors import StateError
from planner.sweep import Sweep, run_sweep
from planner.train.job import Job, Result
from tests.engines.tiny import assert_whole, lay_out, lay_out_last, start, states, wait_for

if find_spec("ray") is None:  # not by importing it: where its servers bind is decided at import, and the engine does that
    pytest.skip("the extra ray is not installed", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"),  # Ray's own
]


class Nodes:
    """A cluster whose nodes can be killed; its head takes no tasks."""

    def __init__(self) -> None:
        os.environ["RAY_AUTH_MODE"] = "disabled"  # only ray.init and ray start make a token; this class does not
        self.ray: Any = import_ray(local=True)
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.workers = [self.cluster.add_node(num_cpus=1, num_gpus=0), self.cluster.add_node(num_cpus=1, num_gpus=0)]
        self.ray.init(address=self.cluster.address, log_to_driver=False, logging_level="error")
        self.cluster.wait_for_nodes()

    def busy(self, *nodes: Any) -> list[int]:
        """List the worker processes of nodes that train a segment."""
        raylets = ",".join(str(node.all_processes["raylet"][0].process.pid) for node in nodes)
        lines = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", raylets], capture_output=True, text=True).stdout.splitlines()
        return [int(line.split()[0]) for line in lines if "ray::n10000" in line]

    def end(self) -> None:
        self.ray.shutdown()
        self.cluster.shutdown()
        del os.environ["RAY_AUTH_MODE"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.end()


@pytest.fixture
def folder(tmp_path: Path, corpus: Corpus, undisturbed: Path) -> Path:
    return lay_out(tmp_path / "tiny", corpus)


def test_the_table_is_that_of_the_local_engine(nodes: Nodes, folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.engines.ray.POLL", 0.02)  # a fast machine trains these segments within a second

    def noted(job: Job, report: Report) -> Result:
        from planner.engines import worker

        worker.NOTE_EVERY = 0.0
        return train(job, report)

    events: list[Event] = []
    assert run_sweep(Sweep.open(folder), RayEngine(runner=noted), on_event=events.append) == {}
    assert_whole(folder, undisturbed)
    kinds = [event.kind for event in events]
    assert kinds.count("started") == kinds.count("finished") == len(Sweep.open(folder).tree.segments)
    assert "steps" in kinds and "worker_died" not in kinds


def pausing(flag: Path) -> Runner:
    """Train, and wait in the midst of it until a file is there: what is killed meanwhile is lost on a fast machine too."""

    def run(job: Job, report: Report) -> Result:
        def paused(steps: int) -> None:
            while not flag.exists():
                time.sleep(0.02)
            report(steps)

        return train(job, paused)

    return run


def test_a_killed_worker_is_replaced(nodes: Nodes, folder: Path, undisturbed: Path) -> None:
    events: list[Event] = []
    flag = folder / "go"

    def kill(event: Event) -> None:
        events.append(event)
        if not flag.exists():
            wait_for(lambda: nodes.busy(*nodes.workers), "a busy worker")
            os.kill(nodes.busy(*nodes.workers)[0], signal.SIGKILL)
            flag.touch()

    assert run_sweep(Sweep.open(folder), RayEngine(runner=pausing(flag)), on_event=kill) == {}
    (died,) = [event for event in events if event.kind == "worker_died"]
    assert "its worker died" in died.message
    assert_whole(folder, undisturbed)


def test_a_killed_node_is_done_without(nodes: Nodes, folder: Path, undisturbed: Path) -> None:
    events: list[Event] = []
    flag = folder / "go"
    victim = nodes.workers.pop()

    def kill(event: Event) -> None:
        events.append(event)
        if len(events) == 2:  # one segment a node
            wait_for(lambda: nodes.busy(victim), "a busy worker on that node")
            nodes.cluster.remove_node(victim, allow_graceful=False)
            flag.touch()

    try:
        assert run_sweep(Sweep.open(folder), RayEngine(runner=pausing(flag)), on_event=kill) == {}
    finally:
        nodes.workers.append(nodes.cluster.add_node(num_cpus=1, num_gpus=0))
    assert [event.kind for event in events[:2]] == ["started", "started"] and any(event.kind == "worker_died" for event in events)
    assert_whole(folder, undisturbed)


def run_all(jobs: list[Job], engine: RayEngine) -> list[Event]:
    waiting = list(reversed(jobs))
    return list(engine.run(lambda: waiting.pop() if waiting else None))


def jobs_of(folder: Path, number: int, **changes: Any) -> list[Job]:
    sweep = Sweep.open(folder)
    return [sweep.job(segment, **changes) for segment in sweep.tree.segments[:number]]


def test_workers_stay_warm(nodes: Nodes, folder: Path) -> None:
    def whoami(job: Job, report: object) -> Result:
        return Result("done", 0.0, f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ['MKL_NUM_THREADS']}")

    events = run_all(jobs_of(folder, 9), RayEngine(runner=whoami))
    words = [event.result.reason or "" for event in events if event.result is not None]
    assert len(words) == 9 and {word.split(" ", 1)[1] for word in words} == {"1 1"}
    assert len({word.split()[0] for word in words}) <= 4, "a process a segment"


def test_what_goes_wrong_in_a_segment_is_told_and_not_repeated(nodes: Nodes, folder: Path) -> None:
    def break_down(job: Job, report: object) -> Result:
        raise StateError("the state is torn", remedy="delete it")

    def die(job: Job, report: object) -> Result:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    events = run_all(jobs_of(folder, 1), RayEngine(runner=break_down))
    assert [event.kind for event in events] == ["started", "failed"] and "the state is torn" in events[-1].message
    events = run_all(jobs_of(folder, 1), RayEngine(runner=die))
    assert [event.kind for event in events] == ["started", *["worker_died"] * (MAX_DEATHS - 1), "failed"]
    assert f"died {MAX_DEATHS} times" in events[-1].message


def test_small_models_are_packed_on_one_gpu(nodes: Nodes, folder: Path) -> None:
    """Ray counts GPUs whether or not they are there: two segments of 1 GB share one of 2.5 GB, never three."""

    def hold(job: Job, report: object) -> Result:
        began, number = time.monotonic(), len(list(folder.glob("*.began")))
        (folder / f"{job.segment.segment_id}.began").touch()
        while len(list(folder.glob("*.began"))) < number // 2 * 2 + 2 and time.monotonic() < began + 60.0:  # until another begins beside it
            time.sleep(0.02)
        time.sleep(3.0)  # so long that a third one would too, on a busy machine
        return Result("done", 0.0, f"{began} {time.monotonic()} {os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()}")

    node = nodes.cluster.add_node(num_cpus=4, num_gpus=1)
    try:
        events = run_all(jobs_of(folder, 4, device="cuda"), RayEngine(gpu_memory=2.5e9, runner=hold))
    finally:
        nodes.cluster.remove_node(node)
    words = [event.result.reason.split() for event in events if event.result is not None and event.result.reason]
    spans = [(float(word[0]), float(word[1])) for word in words]
    together = max(sum(low <= begin < high for low, high in spans) for begin, _ in spans)
    assert len(words) == 4 and {word[2] for word in words} == {"0"}
    assert together == 2
    assert len({word[3] for word in words}) == 4, "a process that held a GPU is not used again"


def test_what_a_dead_nodes_agent_publishes_is_not_printed(nodes: Nodes) -> None:
    """It is the tail of its raylet's log, some 25 lines; that the node is lost is said in a sentence of our own."""
    script = f"""
import time
from planner.engines.ray import connected
with connected("{nodes.cluster.address}") as ray:
    from ray._private.utils import publish_error_to_driver
    publish_error_to_driver("raylet_died", "[state-dump] NodeManager:", gcs_client=ray._private.worker.global_worker.gcs_client)
    time.sleep(1)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=True)
    assert "state-dump" not in said.stdout + said.stderr


def descendants(pid: int) -> dict[int, str]:
    """Map a process and all below it to their command lines."""
    lines = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    table = {int(line.split()[0]): (int(line.split()[1]), line.split(None, 2)[2]) for line in lines}
    found = [pid]
    for item in found:
        found += [child for child, (parent, _) in table.items() if parent == item]
    return {item: table[item][1] for item in found if item in table}


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def listening(pid: int) -> set[str]:
    """List the addresses, as the kernel writes them, that a process accepts connections on."""
    try:
        sockets = {re.sub(r"\D", "", os.readlink(f"/proc/{pid}/fd/{name}")) for name in os.listdir(f"/proc/{pid}/fd")}
        rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]]
    except OSError:  # it has ended
        return set()
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
SECRET = "kept-out-of-every-log"


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill", "ctrl-c", "term"])
def test_the_end_of_the_driver_loses_nothing(tmp_path: Path, corpus: Corpus, undisturbed: Path, blow: signal.Signals) -> None:
    folder = lay_out(tmp_path / "tiny", corpus) if blow == signal.SIGKILL else lay_out_last(tmp_path / "tiny", corpus, undisturbed)
    env = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_MODE"}
    driver = start(folder, "--engine", "ray", "--workers", "2", env={**env, "AWS_SECRET_ACCESS_KEY": SECRET})
    try:
        family: dict[int, str] = {}
        addresses: set[str] = set()

        def ready() -> object:  # what listens is looked at on the way: on a busy machine the sweep would be over before the blow
            nonlocal family
            family = descendants(driver.pid)
            addresses.update(*(listening(pid) for pid in family))
            return states(folder)

        wait_for(ready, "a state", 300)
        driver.send_signal(blow)
        words = driver.communicate(timeout=180)[1]
    finally:
        driver.kill()
        driver.wait()
    assert len(family) > 4 and addresses and addresses <= LOOPBACK
    if blow != signal.SIGKILL:
        assert driver.returncode == 130 and "the same command continues" in words and "***" not in words, words
        assert not (folder / "runner.lock").exists()
    workers = [pid for pid, args in family.items() if "Agent" not in args]  # Ray's two agents take a minute to notice
    wait_for(lambda: not any(map(alive, workers)), "the end of Ray's processes", 30)
    assert SECRET not in words
    assert not [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert run_sweep(Sweep.open(folder), LocalEngine(2)) == {}
    assert_whole(folder, undisturbed)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
@pytest.mark.parametrize("begun", ["gcs_server", "raylet/raylet"])
def test_a_stop_while_ray_starts_is_one_sentence(folder: Path, begun: str, blow: signal.Signals) -> None:
    driver = start(folder, "--engine", "ray", "--workers", "2")
    try:
        wait_for(lambda: any(begun in args for args in descendants(driver.pid).values()), begun, 300)
        driver.send_signal(blow)
        words = driver.communicate(timeout=180)[1]
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 130 and "the same command continues" in words and "***" not in words and "Traceback" not in words, words
    assert not (folder / "runner.lock").exists()


@pytest.mark.parametrize(
    ("address", "sentence"), [("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"), ("nowhere", "--address 'nowhere' is not an address")]
)
def test_a_cluster_that_is_not_there(folder: Path, address: str, sentence: str) -> None:
    runner = start(folder, "--engine", "ray", "--address", address)
    words = runner.communicate(timeout=180)[1]
    assert runner.returncode == 2 and sentence in words and "Traceback" not in words


def test_the_cluster_file_of_the_docs_is_one() -> None:
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    root = Path(__file__).parents[2]
    text = (root / "examples" / "ray-cluster.yaml").read_text()
    validate_config(prepare_config(yaml.safe_load(text)))
    assert text.strip() in (root / "docs" / "clusters.md").read_text(), "the docs show another file"


def test_a_cluster_without_a_node_left_is_one_sentence(tmp_path: Path, corpus: Corpus, undisturbed: Path) -> None:
    folder = lay_out_last(tmp_path / "tiny", corpus, undisturbed)
    runner = start(folder, "--engine", "ray", "--workers", "2", "--no-compile")
    try:
        wait_for(lambda: states(folder), "a first state")
        lines = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(runner.pid)], capture_output=True, text=True).stdout.splitlines()
        (raylet,) = [int(line.split()[0]) for line in lines if "raylet/raylet" in line]
        os.kill(raylet, signal.SIGKILL)
        _, said = runner.communicate(timeout=120)
    finally:
        runner.kill()
    assert runner.returncode == 2 and "error: no node of the Ray cluster is left; restart the cluster" in said, said
    assert f"died {MAX_DEATHS} times" not in said
