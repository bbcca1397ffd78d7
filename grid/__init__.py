"""The experiment: spec -> cells -> stage tree -> search (Ray Tune) -> trial (Ray Train) -> tracking (MLflow) -> report."""
