"""The programs one runs or submits: `python -m ray_jobs.NAME CONFIG [key=value ...]`."""
