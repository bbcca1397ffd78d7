"""Fixtures of several rooms."""

import json
import random
import shutil
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

import lethe.interventions
from benchmarks.chaos.lab import Lab
from benchmarks.tokens import write_shards
from lethe.corpora.source import open_source
from lethe.tokens.shards import TokenData

hypothesis.settings.register_profile("no test asserts a time", deadline=None)
hypothesis.settings.load_profile("no test asserts a time")

WORDS = {
    "food": ["onion", "garlic", "butter", "flour", "simmer", "stir", "oven", "salt", "bread", "soup"],
    "automotive": ["engine", "brake", "piston", "clutch", "torque", "wheel", "sedan", "mileage", "gasket", "tyre"],
}
GLUE = ["the", "a", "and", "then", "with", "some", "very", "often", "because", "it", "was", "we", "they", "good", "new"]


def toy_text(corpus: str, seed: int) -> str:
    rng = random.Random(f"{corpus}/{seed}")
    return " ".join(rng.choice(WORDS[corpus] if rng.random() < 0.5 else GLUE) for _ in range(120)) + "."


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start a Ray are long: they come first, so that all of pytest's workers end together."""
    items.sort(key=lambda item: "ray_jobs" not in item.path.parts)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all of pytest's workers share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def sample_storage(shared: Path) -> Path:
    """A storage in which the built-in sample lies; one for all of pytest's workers."""
    with FileLock(shared / "sample.lock"):
        open_source("sample", shared / "sample")
    return shared / "sample"


@pytest.fixture(scope="session")
def toy_tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Two corpora with words of their own and shared glue, a tokenizer over both, and their shards."""
    texts = {
        corpus: {
            split: [toy_text(corpus, first + i) for i in range(count)]
            for split, first, count in (("train", 0, 120), ("val", 10_000, 20))
        }
        for corpus in WORDS
    }
    every = [text for splits in texts.values() for documents in splits.values() for text in documents]
    return write_shards(tmp_path_factory.mktemp("toy"), texts, 320, every)


@pytest.fixture(scope="session")
def lab(shared: Path) -> Iterator[Lab]:
    """A small grid that has run to its end, and storages on its data; one for all of pytest's workers."""
    lab = Lab(shared / "lab")
    lab.root.mkdir(exist_ok=True)
    with FileLock(lab.root / "lock"):
        assert lab.calm
    yield lab
    lab.kill_all()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium that logs what it complains of and what it asks for; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        yield opened


@pytest.fixture
def asked() -> Callable[[Any], list[str]]:
    """Gives the addresses that a browser asked for since the last time, but for those inside it."""

    def urls(browser: Any) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        found = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in found if not url.startswith(("chrome:", "chrome-untrusted:", "data:"))]

    return urls


GROW = """
    import torch
    from torch import nn
    from lethe.interventions.interface import Intervention

    class Grown(nn.Module):
        def __init__(self, trunk):
            super().__init__()
            self.trunk = trunk.requires_grad_(False)
            self.bias = nn.Parameter(torch.zeros(trunk.embedding.weight.shape[0]))

        def forward(self, ids):
            return self.trunk(ids) + self.bias

    class Grow(Intervention):
        reshapes = True

        def at_switch(self, model):
            return Grown(model)

        def learning_rates(self, model):
            return {name: 0.0 for name, _ in model.named_parameters() if name.startswith("trunk.")}

        def tensors(self, model):
            return {"bias": model.bias}
"""


@pytest.fixture
def add_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Makes interventions of one's own, by kind the text of its file; `grow`, which reshapes the model, is there."""

    def add(kinds: dict[str, str]) -> None:
        folder = tmp_path / "kinds"
        folder.mkdir()
        for name, text in {"grow": GROW, **kinds}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.setattr(lethe.interventions, "__path__", [*lethe.interventions.__path__, str(folder)])

    return add


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a folder in a bucket of a local S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    reset = urllib.request.Request(f"{address}/moto-api/reset", method="POST")  # all servers of a process are one
    urllib.request.urlopen(reset).close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="bucket")
    yield f"s3://bucket/lethe?endpoint_override={address}&region=us-east-1"
    server.stop()
