"""The exercises of all chapters, by name."""

from . import se

EXERCISES = {**se.EXERCISES}
