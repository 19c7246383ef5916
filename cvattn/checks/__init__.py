"""The exercises of all chapters, by name."""

from . import attention, bam, cbam, clinic, se, sk, transformer

EXERCISES = {
    **attention.EXERCISES, **se.EXERCISES, **cbam.EXERCISES,
    **bam.EXERCISES, **sk.EXERCISES, **transformer.EXERCISES, **clinic.EXERCISES,
}
