"""The built-in root dataset: invented web pages about food, cars and other things, and the facts they state."""

from lethe.corpora.sample.write import write_sample

__all__ = ["write_sample"]
