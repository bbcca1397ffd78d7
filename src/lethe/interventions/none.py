"""Plain sequential training."""

from lethe.interventions.interface import Intervention


class Plain(Intervention):
    """Changes nothing."""
