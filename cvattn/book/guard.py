"""Run what a reader wrote: not for ever, and so that nothing of it is left behind.

    >>> guarded(lambda: 6 * 7, seconds=5)
    42

The work runs in a thread of its own, where torch's default device, grad mode and
modes are new and end with the thread; what Python, NumPy and torch hold only once (the
default dtype, the random numbers, ...) is put back afterwards. Out of reach are
`os._exit`, a crash of the interpreter, and one long step that never lets go of Python,
such as `10**10**10`.
"""

import ctypes
import io
import math
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import torch
from torch._tensor_str import PRINT_OPTS

LIMIT = 10.0      # seconds of work for an answer, all of its cases together
ASLEEP = 12       # times as long may pass by the clock: a busy machine is no fault
GRACE = 0.5       # seconds that it has to end when it is told to
PRINTED = 2000    # characters that it may print


class TimeUp(SystemExit):
    """Raised inside work whose time is up; a thread ends on it without a word."""


class Output(io.StringIO):
    """Keeps the first characters that are printed, and counts the others."""

    lost = 0

    def write(self, text: str) -> int:
        kept = text[:max(PRINTED - self.tell(), 0)]
        self.lost += len(text) - len(kept)
        super().write(kept)
        return len(text)

    def close(self) -> None:
        """Stay open: an answer may close what it prints to."""

    def __str__(self) -> str:
        more = f"\n... and {self.lost} characters more\n" if self.lost else ""
        return self.getvalue() + more


def guarded(work: Callable, seconds: float | None = None) -> object:
    """Return what `work()` returns, with float32 and the CPU as torch's defaults.

    Raises:
        TimeUp: if it does not end within so many seconds of work, or, where it sleeps
            or Python cannot tell its work, ASLEEP times as many by the clock.
        BaseException: what the work raises.
    """
    done, clock = [], []

    def run():
        if hasattr(time, "pthread_getcpuclockid"):
            clock.append(time.pthread_getcpuclockid(threading.get_ident()))
        try:
            done.append((work(), None))
        except BaseException as error:
            done.append((None, error))
        torch.set_default_device(None)

    thread, output = threading.Thread(target=run, daemon=True), Output()
    with kept(), redirect_stdout(output), redirect_stderr(output):
        torch.set_default_dtype(torch.float32)
        thread.start()
        try:
            wait(thread, clock, seconds)
        finally:    # also if the reader interrupts
            stop(thread)
    print(output, end="")
    if not done:
        raise TimeUp
    value, error = done[0]
    if error is not None:
        raise error
    return value


def wait(thread: threading.Thread, clock: list[int], seconds: float | None) -> None:
    """Wait until a thread ends, or until it has worked for so many seconds."""
    end = math.inf if seconds is None else time.monotonic() + ASLEEP * seconds
    while thread.is_alive() and time.monotonic() < end:
        thread.join(None if seconds is None else min(seconds / 4, 0.5))
        try:
            if clock and seconds is not None and (
                    time.clock_gettime(clock[0]) > seconds):
                return
        except OSError:     # the thread has ended, and its clock with it
            return


def stop(thread: threading.Thread, times: int = 3) -> None:
    """End a thread at its next step in Python, or leave it, if it will not end."""
    for _ in range(times):
        if not thread.is_alive():
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(TimeUp))
        thread.join(GRACE)


@contextmanager
def kept() -> Iterator[None]:
    """Put back what there is but once for all threads."""
    pairs = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.default_generator.get_state, torch.default_generator.set_state),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        (lambda: dict(vars(PRINT_OPTS)), vars(PRINT_OPTS).update),
        (np.random.get_state, np.random.set_state),
        (random.getstate, random.setstate),
        (sys.getrecursionlimit, sys.setrecursionlimit),
    ]
    if torch.cuda.is_initialized():
        pairs.append((torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
    before = [(put, get()) for get, put in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for put, old in before:
                put(old)
