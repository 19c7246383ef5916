"""Kernels that start warm: forked from a process that has imported torch already.

Importing torch costs a kernel two seconds of a processor, and the tests start dozens.
After `up()` the kernels that this process starts are forked, on Linux and where torch
has one thread, from a server with PRELOAD in it; a notebook sees no difference.
"""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

# With its own name, since what a kernel runs first is `kernel` of this file.
PRELOAD = ["numpy", "torch", "ipykernel.kernelapp", "warm"]


def up():
    # A fork is no safe copy elsewhere, nor where there is a pool of threads.
    if sys.platform != "linux" or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["warm"] = EntryPoint("warm", "warm:Warm", factory.GROUP_NAME)
    factory.default_provisioner_name = "warm"


class Warm(LocalProvisioner):
    async def launch_kernel(self, cmd, **kwargs):
        if cmd[0] != sys.executable:
            return await super().launch_kernel(cmd, **kwargs)
        self.process = Process(cmd, kwargs.get("cwd") or os.getcwd(), kwargs["env"])
        self.pid = self.process.pid
        return self.connection_info


class Process:
    """What LocalProvisioner asks of a subprocess.Popen, by multiprocessing."""

    stdin = stdout = stderr = None

    def __init__(self, cmd, cwd, env):
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(PRELOAD)
        path = bare(env.get("PYTHONPATH", ""))
        self.forked = server.Process(target=kernel, args=(cmd, cwd, env, path))
        self.forked.start()
        self.pid = self.forked.pid
        self.kill, self.terminate = self.forked.kill, self.forked.terminate

    def poll(self):
        return self.forked.exitcode

    def wait(self):
        self.forked.join()
        return self.forked.exitcode

    def send_signal(self, signum):
        os.kill(self.pid, signum)


@functools.cache
def bare(pythonpath):
    """Return the sys.path of a fresh Python with this PYTHONPATH."""
    show = "import json, sys; print(json.dumps(sys.path[1:]))"
    return json.loads(subprocess.check_output(
        [sys.executable, "-c", show], text=True,
        env={**os.environ, "PYTHONPATH": pythonpath}))


def kernel(cmd, cwd, env, path):
    """Be the kernel of this command; never returns."""
    from ipykernel import kernelapp

    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = path
    del sys.modules[__name__]
    multiprocessing.set_start_method(None, force=True)
    # Read from the environment, but when it was imported: whose end ends the kernel.
    kernelapp.IPKernelApp.parent_handle.default_value = os.getppid()
    sys.argv = cmd[cmd.index("-m") + 1:]
    kernelapp.launch_new_instance()
