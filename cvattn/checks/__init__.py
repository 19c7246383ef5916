"""The exercises of all chapters, by name."""

from . import attention, bam, cbam, clinic, se, sk

EXERCISES = {
    **attention.EXERCISES, **se.EXERCISES, **cbam.EXERCISES,
    **bam.EXERCISES, **sk.EXERCISES, **clinic.EXERCISES,
}
