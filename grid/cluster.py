"""One Ray for the whole run: started here, or joined where the environment names one."""

import logging
import os
import signal

from lethe.config import UserError


def ensure_ray() -> None:
    """Start a local Ray, or join the cluster that RAY_ADDRESS names; does nothing when already connected.

    Raises UserError where the cluster takes another token than ours, or is not there.
    """
    import ray

    if not ray.is_initialized():
        # Without an address Ray would attach to whatever cluster it finds on the machine.
        address = os.environ.get("RAY_ADDRESS", "local")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if address not in ("local", "auto") and "://" not in address:
            _check_token(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise UserError(
                f"RAY_ADDRESS: found {address!r}, where no cluster answers; allowed: the HOST:PORT of one that runs, "
                "or no RAY_ADDRESS, for a Ray of this machine alone"
            ) from None
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray would exit with 15


def _check_token(address: str) -> None:
    """Raise UserError where the cluster refuses our token: Ray itself would ask it again for minutes."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel  # adds the token that ray.init would send
    from ray.exceptions import AuthenticationError

    allowed = (
        f"allowed: the token of the cluster at {address} (or RAY_AUTH_TOKEN_PATH, a file with it); RAY_AUTH_MODE=token "
        "where that has one, RAY_AUTH_MODE=disabled where it has none"
    )
    try:
        with init_grpc_channel(address) as channel:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=10)
    except AuthenticationError:
        raise UserError(f"RAY_AUTH_TOKEN: found none; {allowed}") from None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:  # else ray.init will say what is wrong
            found = "none, for RAY_AUTH_MODE is disabled" if os.environ["RAY_AUTH_MODE"] == "disabled" else "another"
            raise UserError(f"RAY_AUTH_TOKEN: found {found}; {allowed}") from None
