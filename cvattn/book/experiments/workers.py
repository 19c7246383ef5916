"""Processes that train side by side, on the cores that this process may use."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

import torch


def cores() -> int:
    """Return how many cores this process may use: `taskset` and Slurm may give few."""
    if hasattr(os, "process_cpu_count"):        # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers(ThreadPoolExecutor):
    """An executor of n processes, each of which takes one call at a time.

    Unlike a `ProcessPoolExecutor` of n processes it tells whose process died: the
    future of that call alone raises `BrokenProcessPool`. All processes end at once
    when the `with` block is left by an exception, or when this process dies, however
    it dies. On several GPUs the i-th process computes on the i-th, round and round.
    """

    def __init__(self, n: int):
        super().__init__(n)
        context = multiprocessing.get_context("spawn")
        self.lifelines = context.Pipe(duplex=False)
        self.idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        for i in range(n):
            self.idle.put(ProcessPoolExecutor(
                1, context, initializer=begin, initargs=(i, self.lifelines[0])))

    def submit(self, function: Callable, /, *args, **kwargs) -> Future:
        return super().submit(self.call, function, *args, **kwargs)

    def call(self, function: Callable, /, *args, **kwargs):
        """Return what the function returns in the next process that is idle."""
        process = self.idle.get()
        try:
            return process.submit(function, *args, **kwargs).result()
        finally:
            self.idle.put(process)

    def __exit__(self, kind, *error) -> None:
        if kind is not None:
            self.lifelines[1].close()
        self.shutdown(cancel_futures=kind is not None)
        while not self.idle.empty():
            self.idle.get().shutdown()
        for end in self.lifelines:
            end.close()


def begin(i: int, lifeline: Connection) -> None:
    """Prepare the i-th process, which ends as soon as the lifeline's other end does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C is the parent's to answer
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
    share_gpus(i)


def share_gpus(i: int) -> None:
    """Let `cuda` mean one of the visible GPUs, the next for the next i."""
    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(i % gpus)


def end_with(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)
