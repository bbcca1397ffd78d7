"""What goes wrong with the cluster a grid joins: a node lost, its job stopped, a token that is missing or another."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.chaos.faults import fault, under_way
from benchmarks.chaos.lab import Lab, Program, free_port, wait_for_cells


@fault
def a_node_lost(lab: Lab) -> Path:
    import grid  # noqa: F401, I001 - sets what Ray reads when it is imported
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        storage, program = under_way(lab, "node", RAY_ADDRESS=cluster.address)
        done = {path: path.stat().st_mtime_ns for path in storage.rglob("stage.json")}
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        assert program.end() == 0, program.text
        assert done
        assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished stage was made again"
        assert program.text.count("lost: its process was lost") <= 2, program.text
    finally:
        cluster.shutdown()
    return storage


@fault
def ray_job_stop(lab: Lab) -> Path:
    """Its driver has three seconds to end; the same job goes on."""
    storage = lab.fresh("job")
    config = lab.write_config(storage)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32}
    with head(lab, CHAOS_TRACE=str(storage / "trace.txt"), **token) as (_, jobs):
        job = ["ray.scripts.scripts", "job"]
        submit = [*job, "submit", f"--address={jobs}", "--runtime-env=ray_jobs/runtime_env.yaml", "--working-dir=."]
        entry = ["--", sys.executable, "-m", "ray_jobs.run_grid", str(config), f"storage={storage}"]
        program = Program([*submit, "--submission-id=first", *entry], storage / "first.txt", token)
        wait_for_cells(program)
        stop = Program([*job, "stop", f"--address={jobs}", "first"], storage / "stop.txt", token)
        assert stop.process.wait(60) == 0, stop.text
        assert "Traceback" not in program.text, program.text
        program = Program([*submit, "--submission-id=second", *entry], storage / "second.txt", token)
        assert program.process.wait(300) == 0, program.text
    return storage


@contextmanager
def head(lab: Lab, **environment: str) -> Iterator[tuple[str, str]]:
    """The head of another cluster of this machine; its address, and that of its job server."""
    port, jobs = free_port(), free_port()
    arguments = ["ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1", f"--port={port}"]
    arguments += [f"--dashboard-port={jobs}", f"--dashboard-agent-listen-port={free_port()}"]
    program = Program(arguments, lab.root / "head.txt", environment)
    try:
        assert program.wait_for(lambda: answers(port) and answers(jobs), 120), program.text
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs}"
    finally:
        program.kill()


def answers(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def refused_by(address: str, lab: Lab, found: str, **environment: str) -> None:
    """A grid joins the cluster: one line must say which variable is to be mended."""
    storage = lab.fresh("refused")
    (storage / "home").mkdir()  # Ray looks for a token there
    environment = {"RAY_ADDRESS": address, "HOME": str(storage / "home"), "RAY_AUTH_TOKEN_PATH": ""} | environment
    program = lab.start(storage, **environment)
    code = program.process.wait(120)
    assert code == 2, program.text
    last = program.text.splitlines()[-1]
    assert last.startswith(f"RAY_AUTH_TOKEN: found {found}; allowed: "), program.text
    assert "Traceback" not in program.text


@fault
def ray_with_a_token(lab: Lab) -> None:
    with head(lab, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 32) as (address, _):
        refused_by(address, lab, "none", RAY_AUTH_TOKEN="")
        refused_by(address, lab, "another", RAY_AUTH_TOKEN="b" * 32)
        refused_by(address, lab, "none, for RAY_AUTH_MODE is disabled", RAY_AUTH_MODE="disabled")


@fault
def ray_without_a_token(lab: Lab) -> None:
    with head(lab, RAY_AUTH_MODE="disabled") as (address, _):
        refused_by(address, lab, "none", RAY_AUTH_TOKEN="")
