"""The exercises of all chapters, by name."""

from . import attention, bam, cbam, clinic, se, sk, stn, transformer, vit

EXERCISES = {
    **attention.EXERCISES, **se.EXERCISES, **cbam.EXERCISES,
    **bam.EXERCISES, **sk.EXERCISES, **stn.EXERCISES, **transformer.EXERCISES,
    **vit.EXERCISES, **clinic.EXERCISES,
}
