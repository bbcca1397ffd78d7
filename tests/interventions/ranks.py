"""Trains stages under torchrun; for the tests beside it. Arguments: store, tokens; evaluation and stages as JSON."""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from lethe.tokens.shards import TokenData
from lethe.training.job import Job
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker

if __name__ == "__main__":
    store, tokens, evaluation, stages = sys.argv[1:]
    dist.init_process_group("gloo")
    worker = Worker(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), micro_batch=2)
    for stage in json.loads(stages):
        measure = ("food", "automotive"), Evaluation.model_validate_json(evaluation), 8
        run_stage(Job(Stage.model_validate(stage), TokenData(Path(tokens)), StageStore(Path(store)), *measure), worker)
    dist.destroy_process_group()
