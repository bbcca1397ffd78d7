"""What a cluster is given: the manifest asks for what the programs have, and the image holds what they need."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from grid.spec import Grid, load_grid
from lethe.program import parser

ROOT = Path(__file__).parents[1]
JOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())["spec"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
GROUPS = [JOB["rayClusterSpec"]["headGroupSpec"], *JOB["rayClusterSpec"]["workerGroupSpecs"]]


@pytest.fixture
def grid() -> Grid:
    """The manifest's grid, as its command gives it."""
    python, minus_m, module, *arguments = shlex.split(JOB["entrypoint"])
    assert (python, minus_m) == ("python", "-m")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    arguments.remove("--quiet")
    given = parser("").parse_intermixed_args(arguments)
    folder = re.search(r"^WORKDIR (.*)$", DOCKERFILE, re.M)
    assert folder
    assert given.config.startswith(folder[1])
    return load_grid(given.config.replace(folder[1], str(ROOT)), given.overrides)


def test_the_storage_is_one_volume_that_every_node_mounts(grid):
    for group in GROUPS:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (claim,) = [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert str(grid.storage) == mounts[claim]


def test_a_worker_has_room_for_what_the_grid_asks(grid):
    asked = grid.resources_of("tiny")
    worker = GROUPS[1]["template"]["spec"]["containers"][0]["resources"]["limits"]
    together = int(1 / asked.gpus) * int(worker["nvidia.com/gpu"])
    assert asked.cpus * together <= int(worker["cpu"])


def test_it_is_tried_again_and_open_to_nobody():
    assert JOB["backoffLimit"] > 0
    assert JOB["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_image_holds_every_room_that_a_job_imports():
    copied = {word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]}
    assert copied >= {"src", "grid", "ray_jobs", "configs", "pyproject.toml", "README.md"}
    assert all((ROOT / name).exists() for name in copied)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == copied


def test_all_run_as_the_image_s_user_whose_group_may_write_the_storage():
    (user,) = re.findall(r"^RUN useradd .*--uid (\d+)", DOCKERFILE, re.M)
    for group in GROUPS:
        asked = group["template"]["spec"]["securityContext"]
        assert asked == {"runAsNonRoot": True, "runAsUser": int(user), "fsGroup": int(user)}
