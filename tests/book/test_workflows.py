"""The GitHub workflows: pinned actions, least permissions, and commands that exist."""

import os
import re
import runpy
import subprocess

import pytest
import yaml
from conftest import ROOT

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
        ours = action == "./.github/workflows/test.yml"
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
        for step in job["steps"]:
            if "checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow, job", JOBS)
def test_no_expression_is_pasted_into_a_script(workflow, job):
    assert "${{" not in commands(job)


@pytest.mark.parametrize("workflow, job", JOBS)
def test_a_job_ends_in_time_and_never_runs_twice_at_once(workflow, job):
    assert workflow["concurrency"]["group"]
    assert "uses" in job or job["timeout-minutes"] <= 60


@pytest.mark.parametrize("workflow, job", JOBS)
def test_scripts_are_bash_and_name_what_exists(workflow, job):
    script = commands(job)
    checked = subprocess.run(["bash", "-n"], input=script, text=True)
    assert checked.returncode == 0
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\s*make ([\w-]+)", script, re.M):
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
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert {"test", "build"} <= set(jobs["colab"]["needs"])
    assert "colab" in jobs["pages"]["needs"]


def test_a_run_started_by_hand_from_another_branch_publishes_nothing():
    jobs = WORKFLOWS["publish"]["jobs"]
    public = {name: job for name, job in jobs.items() if {
        k for k, v in job.get("permissions", {}).items() if v == "write"}}
    assert set(public) == {"colab", "pages"}
    for job in public.values():
        assert job["if"] == "github.ref_name == github.event.repository.default_branch"


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
    needs = {"NEWEST": "success", "LINKS": "failure", "COLAB": "success"}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    env |= {"OPEN": found, "RUN": "https://example.org/run"} | needs
    report = WORKFLOWS["weekly"]["jobs"]["report"]
    assert set(report["needs"]) == set(WORKFLOWS["weekly"]["jobs"]) - {"report"}
    script = commands(report)
    subprocess.run(["bash", "-e", "-c", script], check=True, env=env)
    asked, acted = calls.read_text().splitlines()[0], calls.read_text().splitlines()[-1]
    assert asked.startswith("issue list --state open")
    assert acted.startswith(call)
    assert "links: failure" in acted and "https://example.org/run" in acted
