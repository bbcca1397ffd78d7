"""One Ray for the whole run: started here, or joined where the environment names one."""

import logging
import os


def ensure_ray() -> None:
    """Start a local Ray, or join the cluster that RAY_ADDRESS names; does nothing when already connected."""
    for name, value in {
        "RAY_AUTH_MODE": "token",  # a cluster without a token is open to every process on the machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's default of 15 starves workers beside anything else
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would swallow Ctrl-C and wait for its trials
        "RAY_AIR_NEW_OUTPUT": "0",
    }.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    # Without an address Ray would attach to whatever cluster it finds on the machine.
    address = os.environ.get("RAY_ADDRESS", "local")
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
