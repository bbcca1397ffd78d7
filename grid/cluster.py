"""One Ray for the whole run: started here, or joined where the environment names one."""

import logging
import os

# What the workers' processes start with. Trials run in threads, whose own arenas of glibc never keep large buffers
# (a step is then up to a fifth slower); with one arena they share the main one, which `lethe.training.machine` sets up.
RUNTIME_ENV = {"env_vars": {"MALLOC_ARENA_MAX": "1"}}


def ensure_ray() -> None:
    """Start a local Ray, or join the cluster that RAY_ADDRESS names; does nothing when already connected."""
    import ray

    if not ray.is_initialized():
        # Without an address Ray would attach to whatever cluster it finds on the machine.
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address=address, runtime_env=RUNTIME_ENV, log_to_driver=False, logging_level=logging.ERROR)
