"""Run all notebooks and the unit tests as they might be run on another machine.

    python _tools/portable.py                three rows, of each kind one
    python _tools/portable.py --all          all nine
    python _tools/portable.py avx2-1 -- tests/test_se.py

Each row has a kind of processor (`native`, `avx2`, `sse4`: what PyTorch, oneDNN and
MKL may use, so on Arm all three are native) and a number of threads. Each is run from
a fresh clone of the last commit, in a folder whose name has a space,
with another hash seed, in the C locale without UTF-8 mode, in another time zone, and,
where Linux lets us, with no network and a home that cannot be written to. The tests
of the pages need a browser and a built book and are left to `make test`.
"""

import argparse
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "_build" / "portable"
PROCESSORS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
             "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "sse4": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
             "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
THREADS = (1, 2, 3)
EVERY = [f"{processor}-{threads}" for processor in PROCESSORS for threads in THREADS]
SOME = ["native-3", "avx2-1", "sse4-2"]
PYTEST = [
    "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "900",
    "--nbval-sanitize-with", "tests/sanitize.cfg", "--doctest-modules",
    "-p", "no:cacheprovider", "-m", "not browser", "--quiet", "-n", "auto",
    "--dist", "loadscope", "--no-loadscope-reorder",
]
APART = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def enter(home, command):
    """Inside new namespaces: lift the loopback, shut home, run the command."""
    import fcntl

    with socket.socket() as s:
        up = struct.pack("16sH14s", b"lo", 1, b"")              # IFF_UP
        fcntl.ioctl(s, 0x8914, up)                              # SIOCSIFFLAGS
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", home], check=True)
    os.execvp(command[0], command)


def apart(home):
    """What goes before a command to have no network and a read-only home, or []."""
    before = [*APART, sys.executable, __file__, "--enter", str(home), "--"]
    try:
        done = subprocess.run([*before, "true"], capture_output=True)
    except OSError:
        return []
    return before if done.returncode == 0 else []


def environment(row, folder, home):
    processor, _, threads = row.partition("-")
    ours = ("LC_", "PYTHON", "JUPYTER", "PYTEST", "CI", "GIT_", "XDG_", "MPL")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    runtime = folder.parent / "runtime"
    runtime.mkdir(exist_ok=True)
    return {
        **kept, **PROCESSORS[processor], "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads, "PYTHONHASHSEED": str(11 * int(threads)),
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "TZ": "Pacific/Chatham", "HOME": str(home), "USERPROFILE": str(home),
        "JUPYTER_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(folder),
        "MPLCONFIGDIR": str(runtime),       # else matplotlib warns of the shut home
        # Kernels that another row has compiled give wrong numbers in this one.
        "TORCHINDUCTOR_CACHE_DIR": str(runtime),
        # Where the network cannot be cut off, at least its usual way out is.
        "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1,localhost",
    }


def clone(row):
    """A fresh clone of HEAD and an empty home, in folders of the row's own."""
    own = PLACE / row
    shutil.rmtree(own, ignore_errors=True)
    folder, home = own / "a reader's folder", own / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder, home


def run(row, what):
    """Run one row and return its line of the table, and whether it passed."""
    folder, home = clone(row)
    before = apart(home)
    command = [*before, sys.executable, "-m", "pytest", *PYTEST, *what]
    start = time.monotonic()
    log = folder.parent / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=file,
                              env=environment(row, folder, home))
    minutes = (time.monotonic() - start) / 60
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if done.returncode:
        print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))))
        print(f"{row} failed; the whole output is in {log.relative_to(ROOT)}")
    else:
        shutil.rmtree(folder)
    counts = re.findall(r"(\d+) (passed|failed|error|skipped)", (lines or [""])[-1])
    told = ", ".join(f"{number} {word}" for number, word in counts) or "no test"
    processor, _, threads = row.partition("-")
    cut = "yes" if before else "no"
    return (f"| {processor} | {threads} | {cut} | {told} | {minutes:.1f} |",
            done.returncode == 0 and "passed" in told)


def main():
    if sys.argv[1:2] == ["--enter"]:
        enter(sys.argv[2], sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(EVERY))
    parser.add_argument("--all", action="store_true", help="all nine rows")
    arguments = sys.argv[1:]
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options, what = parser.parse_args(arguments[:at]), arguments[at + 1:]
    rows = options.rows or (EVERY if options.all else SOME)
    unknown = sorted(set(rows) - set(EVERY))
    if unknown:
        parser.error(f"a row must be one of {', '.join(EVERY)}, got {unknown}")
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, text=True,
                      capture_output=True).stdout:
        print("Uncommitted changes are left out: what is tried is the last commit.")
    done = [run(row, what or ["chapters", "cvattn", "tests"]) for row in rows]
    print(f"{platform.machine()}, Python {platform.python_version()}")
    print("| processor | threads | network and home shut | tests | minutes |")
    print("|---|---|---|---|---|")
    for line, _ in done:
        print(line)
    sys.exit(not all(passed for _, passed in done))


if __name__ == "__main__":
    main()
