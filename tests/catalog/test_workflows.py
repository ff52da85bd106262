"""The workflows in .github: least privilege, pinned actions, and no text from outside in a command line."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from catalog.cli import app

HOME = Path(__file__).parents[2]
WORKFLOWS = sorted((HOME / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((HOME / ".github" / "actions").glob("*/action.yml"))
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
MAY_WRITE = {
    ("comment", "post"): {"pull-requests"},
    ("new-paper", "propose"): {"contents", "pull-requests", "issues"},
    ("weekly", "propose"): {"contents", "pull-requests"},
    ("pages", "deploy"): {"pages", "id-token"},
    ("release", "publish"): {"contents"},
}


def load(path: Path) -> dict[str, Any]:
    """YAML 1.2, in which `on` is no boolean."""
    return dict(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))


def jobs() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    for path in WORKFLOWS:
        workflow = load(path)
        for name, job in workflow["jobs"].items():
            yield path.stem, name, job, workflow


def scripts() -> Iterator[tuple[str, str]]:
    for path in (*WORKFLOWS, *ACTIONS):
        data = load(path)
        parts = data["jobs"].values() if "jobs" in data else [data["runs"]]
        for step in (step for part in parts for step in part["steps"]):
            if "run" in step:
                yield path.stem, step["run"]


def risky(script: str) -> list[str]:
    """Expressions in a script: the runner pastes their values into it before a shell reads it."""
    return re.findall(r"\$\{\{.*?\}\}", script, re.DOTALL)


def unpinned(text: str) -> list[str]:
    """Actions from elsewhere that are not named by a whole commit with its version beside it."""
    used = re.findall(r"uses:[ ]*(\S.*)", text)
    return [each for each in used if not each.startswith("./") and not PINNED.fullmatch(each.strip())]


def test_there_are_the_workflows_contributors_rely_on() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"pull-request", "comment", "new-paper", "weekly", "pages", "release"}


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_actions_are_pinned_by_commit(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert unpinned(text) == []
    assert unpinned(re.sub(r"@[0-9a-f]{40} # ", "@", text)) != [] or "uses: actions/" not in text


def test_one_commit_for_each_action() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*WORKFLOWS, *ACTIONS))
    pins = set(re.findall(r"uses: ([\w-]+/[\w-]+)@([0-9a-f]{40})", text))
    assert len({action for action, _ in pins}) == len(pins)


def test_only_named_jobs_may_write_and_nobody_inherits() -> None:
    writing = {}
    for workflow, name, job, whole in jobs():
        assert whole["permissions"] in ({}, {"contents": "read"}), workflow
        granted = job.get("permissions", whole["permissions"])
        assert isinstance(granted, dict), (workflow, name)
        if mine := {scope for scope, access in granted.items() if access == "write"}:
            writing[workflow, name] = mine
    assert writing == MAY_WRITE


def test_a_job_that_may_write_runs_no_code_of_ours_nor_of_others() -> None:
    for workflow, name, job, _ in jobs():
        if (workflow, name) in MAY_WRITE:
            for step in job["steps"]:
                used = step.get("uses", "")
                assert not used.startswith("./"), (workflow, name)
                script = step.get("run", "")
                assert not re.search(r"(?m)^\s*(\S*/)?(hft|pip|python|make|npm)\b", script), (workflow, name)


def test_triggers_with_secrets_never_meet_code_of_a_pull_request() -> None:
    for path in WORKFLOWS:
        workflow, text = load(path), path.read_text(encoding="utf-8")
        assert "pull_request_target" not in workflow["on"]
        assert "secrets." not in text, "the workflow's own token is enough"
        if "workflow_run" in workflow["on"] or "issues" in workflow["on"]:
            assert not re.search(r"^\s+ref:", text, re.MULTILINE), "checks out the default branch only"
            assert not re.search(r"git (checkout|switch|merge|pull|reset|rebase|cherry-pick)(?![-\w])", text)


def test_tokens_are_not_left_in_the_checkout() -> None:
    for workflow, name, job, _ in jobs():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, (workflow, name)


@pytest.mark.parametrize(("workflow", "script"), list(scripts()))
def test_no_value_is_pasted_into_a_script(workflow: str, script: str) -> None:
    assert risky(script) == []
    assert risky(script + '\necho "${{ github.event.issue.title }}"') != []


@pytest.mark.parametrize(("workflow", "script"), list(scripts()))
def test_scripts_are_valid_and_stop_at_errors(workflow: str, script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unquoted = re.sub(r'"[^"]*"|\'[^\']*\'', "", script)
    assert not re.search(r"\$[A-Z]", unquoted), "a variable without quotes is split into words"


@pytest.mark.parametrize("job", list(jobs()), ids=lambda job: f"{job[0]}-{job[1]}")
def test_jobs_end_and_name_their_machine(job: tuple[str, str, dict[str, Any], dict[str, Any]]) -> None:
    assert job[2]["runs-on"] == "ubuntu-24.04"
    assert 0 < job[2]["timeout-minutes"] <= 60


def commands(script: str) -> list[list[str]]:
    """The `hft` command lines of a script."""
    found = re.findall(r"(?m)^\s*(?:\.venv/bin/)?hft ((?:[^\n|>&;]|\\\n)+)", script)
    return [shlex.split(each.replace("$(", "(").replace("(", "").replace(")", "")) for each in found]


def test_commands_that_scripts_call_exist_with_their_options() -> None:
    root: Any = get_command(app)
    called = set()
    for workflow, script in scripts():
        for words in commands(script):
            command = root
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            assert command is not root, f"{workflow}: hft {words[0]}"
            assert not hasattr(command, "commands"), f"{workflow}: {command.name} {words}"
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, f"{workflow}: {words}"
            called.add(command.name)
    assert {
        "sync",
        "discover",
        "check",
        "fmt",
        "form",
        "entry",
        "tests",
        "report",
        "release",
        "site",
        "readme",
        "build",
    } <= called


def test_a_failure_inside_a_pipe_stops_the_job() -> None:
    """The runner starts a named bash with -o pipefail, an unnamed one without (GitHub docs, `defaults.run`)."""
    for path in WORKFLOWS:
        assert load(path)["defaults"]["run"]["shell"] == "bash", path.stem


def test_make_targets_that_scripts_call_exist() -> None:
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    for _, script in scripts():
        for target in re.findall(r"(?m)^make (\w+)", script):
            assert re.search(rf"(?m)^{target}:", makefile)


def test_dependabot_looks_wherever_actions_are_used() -> None:
    update = load(HOME / ".github" / "dependabot.yml")["updates"][0]
    assert update["package-ecosystem"] == "github-actions"
    assert set(update["directories"]) == {"/", *(f"/{path.parent.relative_to(HOME)}" for path in ACTIONS)}


def test_the_weekly_patch_holds_the_catalogue_and_not_the_logs_beside_it(tmp_path: Path) -> None:
    script = next(text for workflow, text in scripts() if workflow == "weekly" and "week.patch" in text)
    lines = "\n".join(line for line in script.splitlines() if line.strip().startswith(("mkdir", "git ")))
    shutil.copy(HOME / ".gitignore", tmp_path / ".gitignore")
    (tmp_path / "papers.yaml").write_text("papers: []\n", encoding="utf-8")
    start = "git init -q && git add . && git -c user.name=a -c user.email=a@b.c commit -qm a && mkdir out"
    change = "echo log > out/sync.txt; echo '{}' > pending.json; echo '# new' >> papers.yaml"
    subprocess.run(["bash", "-ec", f"{start}\n{change}\n{lines}"], cwd=tmp_path, check=True)
    patch = (tmp_path / "out" / "week.patch").read_text(encoding="utf-8")
    assert set(re.findall(r"^diff --git a/(\S+)", patch, re.MULTILINE)) == {"papers.yaml", "pending.json"}


def test_a_fork_with_a_branch_of_our_name_is_not_taken_for_our_pull_request() -> None:
    """`gh pr list --head` knows no owners: without the filter a stranger's pull request would be rewritten."""
    lists = [text for _, text in scripts() if "gh pr list --head" in text]
    assert len(lists) == 2
    assert all("select(.isCrossRepository | not)" in text for text in lists)


def zizmor(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("zizmor")
    options = ["--offline", "--no-progress", "--persona=pedantic", "--min-severity=medium"]
    return subprocess.run([program, *options, folder], capture_output=True, text=True)


def test_an_independent_audit_finds_nothing_and_would(tmp_path: Path) -> None:
    shutil.copytree(HOME / ".github", tmp_path / ".github")
    clean = zizmor(tmp_path / ".github")
    assert clean.returncode == 0, clean.stdout
    file = tmp_path / ".github" / "workflows" / "new-paper.yml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("hft readme", 'hft readme "${{ github.event.issue.title }}"'), encoding="utf-8")
    assert zizmor(tmp_path / ".github").returncode != 0
