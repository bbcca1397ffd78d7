"""The experiment: spec -> cells -> stage tree -> search (Ray Tune) -> trial (Ray Train) -> MLflow -> report."""

import os

# Ray and MLflow read these when they are imported, so they are set before any module of this package can do that.
for _name, _value in {
    "RAY_AUTH_MODE": "token",  # a cluster without a token is open to every process on the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves workers beside anything else
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would swallow Ctrl-C and wait for its trials
    "RAY_AIR_NEW_OUTPUT": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password in it, where there is one
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # grid.outbox tries again, without end
}.items():
    os.environ.setdefault(_name, _value)
