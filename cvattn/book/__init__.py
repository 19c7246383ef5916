"""What the chapters need beside the modules: data, training, figures, exercises."""

from cvattn.book.check import check

__all__ = ["check"]
