"""The exercises of all chapters, by name."""

from . import clinic, se

EXERCISES = {**se.EXERCISES, **clinic.EXERCISES}
