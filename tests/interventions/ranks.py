"""Trains stages under torchrun; for the tests beside it. Arguments: store, tokens; evaluation and stages as JSON."""

import json
import os
import sys
from pathlib import Path

from lethe.tokens.shards import TokenData
from lethe.training.job import Job
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker, process_group

if __name__ == "__main__":
    store, tokens, evaluation, stages = sys.argv[1:]
    worker = Worker(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), micro_batch=2)
    measure = ("food", "automotive"), Evaluation.model_validate_json(evaluation), 8
    with process_group(worker):
        for stage in map(Stage.model_validate, json.loads(stages)):
            run_stage(Job(stage, TokenData(Path(tokens)), StageStore(Path(store)), *measure), worker)
