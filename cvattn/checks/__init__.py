"""The exercises of all chapters, by name."""

from . import attention, clinic, se

EXERCISES = {**attention.EXERCISES, **se.EXERCISES, **clinic.EXERCISES}
