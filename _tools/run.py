"""Execute the notebooks again, in place, and write them the same way each time.

    python _tools/run.py                      every notebook in chapters/
    python _tools/run.py chapters/se.ipynb    one

A notebook that fails is left as it was; its error is printed and the exit
status is 1.
"""

import argparse
import hashlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {
        "display_name": "Python 3", "language": "python", "name": "python3"
    },
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
        "version": "3",
    },
}
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook, folder, progress):
    """Run every cell in a fresh kernel that starts in `folder`."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None

    def done(cell, cell_index, execute_reply):
        progress.update()

    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        on_cell_executed=done,
    ).execute(env={**os.environ, "PYTHONHASHSEED": "0"})


def without_paths(text):
    """Drop this machine's folders from a traceback."""
    home = str(Path.home())
    for folder, name in ((sys.prefix, ".venv"), (sys.base_prefix, "python"),
                         (str(ROOT), "")):
        for spelling in (folder, folder.replace(home, "~", 1)):
            text = text.replace(spelling + os.sep, name + "/" if name else "")
    return text


def merged(outputs):
    """Join neighbouring pieces of one stream: how they split is chance."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if (last and output.output_type == last.output_type == "stream"
                and output.name == last.name):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def normalise(notebook):
    """Keep what the reader sees; drop what changes from run to run."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken = set()
    for cell in notebook.cells:
        # A random id changes with every conversion; one made from the text does not.
        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", cell.get("id", "")) or (
            cell.get("id", "") in taken | {""}
        ):
            number = 0
            while not number or cell.id in taken:
                text = f"{cell.cell_type} {number} {cell.source}"
                cell.id = hashlib.sha256(text.encode()).hexdigest()[:8]
                number += 1
        taken.add(cell.id)
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        cell.outputs = merged(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "error":
                output.traceback = [without_paths(line) for line in output.traceback]
            elif "data" in output:
                output.data.pop(WIDGET, None)


def write(notebook, path):
    """Replace the file in one step, so that a stop leaves a whole notebook."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def run(path, progress):
    """Execute, normalise and write one notebook; return an error or None."""
    notebook = nbformat.read(path, as_version=4)
    try:
        execute(notebook, path.parent, progress)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"{path}: left as it was\n{error}"
    normalise(notebook)
    write(notebook, path)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    paths = options.notebooks or sorted((ROOT / "chapters").glob("*.ipynb"))
    if not paths:
        sys.exit("no notebook in chapters/")
    cells = sum(
        cell.cell_type == "code" and bool(cell.source.strip())
        for path in paths
        for cell in nbformat.read(path, as_version=4).cells
    )
    with tqdm(total=cells, unit="cell") as progress:
        with ThreadPoolExecutor(options.jobs) as pool:
            errors = list(pool.map(lambda path: run(path, progress), paths))
    failed = [error for error in errors if error]
    for error in failed:
        print(error, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
