"""One Ray for the whole run: started here, or joined where the environment names one."""

import logging
import os


def ensure_ray() -> None:
    """Start a local Ray, or join the cluster that RAY_ADDRESS names; does nothing when already connected."""
    import ray

    if not ray.is_initialized():
        # Without an address Ray would attach to whatever cluster it finds on the machine.
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
