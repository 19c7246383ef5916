"""The GitHub workflows: pinned actions, least permissions, and commands that exist."""

import base64
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from published import CHAPTERS, environment, git, snapshot, unavailable

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {path.stem: path.read_text("utf-8") for path in FILES}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = [
    pytest.param(workflow, job, id=f"{name}-{key}")
    for name, workflow in WORKFLOWS.items()
    for key, job in workflow["jobs"].items()
]
INSTALLS = re.compile(r"\b(pip|make|npm|npx|apt-get|\.ci/run)\b")


def commands(job):
    return "\n".join(step["run"] for step in job.get("steps", []) if "run" in step)


def test_there_are_three():
    assert sorted(WORKFLOWS) == ["publish", "test", "weekly"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(name):
    used = re.findall(r"uses: (.*)", TEXTS[name])
    assert used
    for action in used:
        ours = action == "$/.github/workflows/test.yml"
        pinned = re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
        assert ours or pinned, action


def test_an_action_has_the_same_pin_everywhere():
    pins = set(re.findall(r"uses: ([\w/-]+)@(\w+)", "\n".join(TEXTS.values())))
    assert len(pins) == len(dict(pins)), pins


@pytest.mark.parametrize("workflow, job", JOBS)
def test_a_job_may_read_and_little_else(workflow, job):
    assert workflow["permissions"] == {"contents": "read"}
    writes = {k for k, v in job.get("permissions", {}).items() if v != "read"}
    assert writes <= {"contents", "pages", "id-token", "issues"}
    if writes:
        assert not INSTALLS.search(commands(job)), "what writes installs nothing"


@pytest.mark.parametrize("workflow, job", JOBS)
def test_no_secret_reaches_a_job_that_installs(workflow, job):
    text = yaml.safe_dump(job)
    assert "secrets" not in text
    if INSTALLS.search(commands(job)):
        assert "github.token" not in text
    for step in job.get("steps", []):
        if "checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_zizmor_has_nothing_to_say_and_make_lint_asks_it():
    here = Path(sys.executable).parent
    zizmor = shutil.which("zizmor", path=str(here))
    assert zizmor, "zizmor is in requirements.txt: `make setup`"
    command = ["--offline", "--pedantic", "--quiet", ".github"]
    done = subprocess.run([zizmor, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"),
                     re.M)
    assert f"zizmor {' '.join(command)}\n" in lint[1]


@pytest.mark.parametrize("workflow, job", JOBS)
def test_no_expression_is_pasted_into_a_script(workflow, job):
    assert "${{" not in commands(job)


@pytest.mark.parametrize("workflow, job", JOBS)
def test_a_job_ends_in_time_and_never_runs_twice_at_once(workflow, job):
    assert workflow["concurrency"]["group"]
    longest = 240 if "make portable" in commands(job) else 60
    assert "uses" in job or job["timeout-minutes"] <= longest


@pytest.mark.parametrize("workflow, job", JOBS)
def test_scripts_are_bash_and_name_what_exists(workflow, job):
    script = commands(job)
    checked = subprocess.run(["bash", "-n"], input=script, text=True)
    assert checked.returncode == 0
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\s*make (?:\w+=\S+ )*([\w-]+)", script, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for path in re.findall(r"(?:_tools|tests|\.ci|\.github)/[\w./-]+", script):
        assert (ROOT / path).is_file(), path


def test_every_supported_python_is_tested():
    setup = runpy.run_path(str(ROOT / "_tools" / "setup.py"))
    (first, last) = setup["FIRST"], setup["LAST"]
    supported = [f"3.{minor}" for minor in range(first[1], last[1] + 1)]
    matrix = WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == supported
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'requires-python = ">={supported[0]}"' in project
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert named == supported


def test_pages_wait_for_the_tests_and_for_the_branch_that_their_buttons_open():
    jobs = WORKFLOWS["publish"]["jobs"]
    assert jobs["test"]["uses"] == "$/.github/workflows/test.yml"
    assert {"test", "build"} <= set(jobs["colab"]["needs"])
    assert "colab" in jobs["pages"]["needs"]


def test_a_run_started_by_hand_from_another_branch_publishes_nothing():
    jobs = WORKFLOWS["publish"]["jobs"]
    public = {name: job for name, job in jobs.items() if {
        k for k, v in job.get("permissions", {}).items() if v == "write"}}
    assert set(public) == {"colab", "pages"}
    for job in public.values():
        assert job["if"] == "github.ref_name == github.event.repository.default_branch"


def test_other_processors_and_other_systems_are_tried_once_a_week():
    jobs = WORKFLOWS["weekly"]["jobs"]
    assert "make portable" in commands(jobs["portable"])
    machines = jobs["machines"]
    assert machines["runs-on"] == "${{ matrix.machine }}"
    named = " ".join(machines["strategy"]["matrix"]["machine"])
    assert re.fullmatch(r"ubuntu-\S+ ubuntu-\S+-arm macos-\S+ windows-\S+", named)
    assert re.search(r"^make PYTHON=python test$", commands(machines), re.M)


class GitServer(BaseHTTPRequestHandler):
    """A git remote that lets in who gives the password `secret` and asks all others."""

    def do_GET(self):
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        if not base64.b64decode(given).endswith(b":secret"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {"GIT_PROJECT_ROOT": str(self.server.root), "GIT_HTTP_EXPORT_ALL": "1",
               "REMOTE_USER": "x", "PATH_INFO": path, "QUERY_STRING": query,
               "REQUEST_METHOD": self.command,
               "CONTENT_TYPE": self.headers.get("Content-Type", ""),
               "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True,
                              env=environment() | env)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for item in headers.items():
            self.send_header(*item)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args):
        pass


def test_the_step_that_pushes_hands_git_the_token_and_leaves_it_nowhere(tmp_path):
    """The job `colab` as it stands, with a server of ours in the place of GitHub."""
    if not Path(git(ROOT, "--exec-path"), "git-http-backend").exists():
        unavailable("this git has no http-backend")
    (step,) = (s for s in WORKFLOWS["publish"]["jobs"]["colab"]["steps"] if "run" in s)
    assert step["env"]["TOKEN"] == "${{ github.token }}"
    tree, remote = tmp_path / "tree", tmp_path / "remote.git"
    tree.mkdir()
    sha = snapshot(tree)
    git(tmp_path, "init", "--quiet", "--bare", remote)
    with ThreadingHTTPServer(("127.0.0.1", 0), GitServer) as server:
        server.root = tmp_path
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        git(tree, "remote", "add", "origin", f"{here}/remote.git")
        git(tree, "config", "http.postBuffer", "50000000")    # so: no chunks
        env = {k: v for k, v in environment().items() if not k.startswith("GIT_CONFIG")}
        env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
        env |= {"COMMIT": sha, "REPOSITORY": "https://github.com/me/book"}
        for key, value in step["env"].items():
            env[key] = str(value).replace("${{ github.server_url }}", here)
        for token, pushed in ("wrong", ""), ("secret", "colab"):
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]], cwd=tree, env=env | {"TOKEN": token},
                capture_output=True, text=True)
            assert (done.returncode == 0) == bool(pushed), done.stderr
            assert git(remote, "branch", "--format", "%(refname:short)") == pushed
            assert token not in done.stdout + done.stderr
            assert token not in (tree / ".git" / "config").read_text("utf-8")
        server.shutdown()
    listed = git(remote, "ls-tree", "-r", "--name-only", "colab")
    assert f"chapters/{CHAPTERS[0]}" in listed


GH = """\
#!/bin/sh
echo "$@" >> "$CALLS"
case "$2" in list) echo "$OPEN";; esac
"""


@pytest.mark.parametrize(
    "found, call", [("", "issue create"), ("7", "issue comment 7")]
)
def test_the_weekly_report_opens_one_issue_then_adds_to_it(tmp_path, found, call):
    gh, calls = tmp_path / "gh", tmp_path / "calls"
    gh.write_text(GH)
    gh.chmod(0o755)
    needs = {"NEWEST": "success", "LINKS": "failure", "COLAB": "success",
             "PORTABLE": "cancelled", "MACHINES": "skipped"}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    env |= {"OPEN": found, "RUN": "https://example.org/run"} | needs
    report = WORKFLOWS["weekly"]["jobs"]["report"]
    assert set(report["needs"]) == set(WORKFLOWS["weekly"]["jobs"]) - {"report"}
    assert {name.upper() for name in report["needs"]} == set(needs)
    script = commands(report)
    subprocess.run(["bash", "-e", "-c", script], check=True, env=env)
    asked, acted = calls.read_text().splitlines()[0], calls.read_text().splitlines()[-1]
    assert asked.startswith("issue list --state open")
    assert acted.startswith(call)
    assert "links: failure" in acted and "https://example.org/run" in acted
    assert "processors: cancelled" in acted and "systems: skipped" in acted
