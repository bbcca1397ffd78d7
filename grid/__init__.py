"""The experiment: spec -> cells -> stage tree -> search (Ray Tune) -> trial (Ray Train) -> MLflow -> report."""
