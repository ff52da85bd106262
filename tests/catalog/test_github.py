"""What the workflows run, on events as GitHub sends them, friendly and hostile."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from catalog.github import changed, markdown, proposal, release
from catalog.github.form import questions
from catalog.problems import RefusedError

HOME = Path(__file__).parents[2]
FORMS = HOME / ".github" / "ISSUE_TEMPLATE"
LABELS = {
    "paper": "Address or id", "type": "Type", "stage": "Stage", "title": "Title", "authors": "Authors",
    "date": "First public", "venue": "Venue", "code": "Code", "why": "Why it belongs here",
}  # fmt: skip
GOOD = {
    "paper": "https://arxiv.org/abs/2412.07097v2", "type": "defense", "stage": "alignment",
    "title": "Scarecrow: Keeping Birds off", "authors": "Zoë Müller; Łukasz Żak", "date": "2024-12-10",
    "venue": "NeurIPS 2025", "code": "https://github.com/gardeners/scarecrow",
}  # fmt: skip


def body(answers: dict[str, str], end: str = "\n") -> str:
    """An issue's text as GitHub renders a filled-in form."""
    return (end * 2).join(f"### {label}{end * 2}{answers.get(key, '_No response_')}" for key, label in LABELS.items())


def event(text: str | None, number: Any = 12) -> dict[str, Any]:
    """An `issues` event, cut down to some of the fields GitHub sends."""
    issue = {
        "url": f"https://api.github.com/repos/gardeners/atlas/issues/{number}",
        "id": 2534,
        "number": number,
        "title": "[paper] Scarecrow",
        "user": {"login": "stranger", "type": "User"},
        "labels": [{"name": "new paper", "color": "ededed"}],
        "state": "open",
        "author_association": "NONE",
        "body": text,
    }
    return {
        "action": "opened",
        "issue": issue,
        "repository": {"full_name": "gardeners/atlas"},
        "sender": {"login": "x"},
    }


@pytest.fixture
def submit(project: Path, hft: Any) -> Callable[..., Any]:
    """Run `hft github form` on an issue's text; returns exit code, comment and pull request or None."""
    shutil.copytree(FORMS, project / ".github" / "ISSUE_TEMPLATE")

    def run(text: str | None, number: Any = 12, raw: bytes | None = None) -> tuple[int, str, dict[str, Any] | None]:
        out, file = project / "out", project / "event.json"
        shutil.rmtree(out, ignore_errors=True)
        file.write_bytes(raw if raw is not None else json.dumps(event(text, number)).encode())
        result = hft("github", "form", str(file), "-o", str(out), "--offline")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        comment = json.loads((out / "comment.json").read_bytes())["body"]
        pull = json.loads((out / "pull.json").read_bytes()) if (out / "pull.json").is_file() else None
        assert len(comment) < 65_536
        return result.exit_code, comment, pull

    return run


def entries(project: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load((project / "papers.yaml").read_text(encoding="utf-8"))["papers"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_form_becomes_an_entry_and_a_pull_request(project: Path, submit: Any, end: str) -> None:
    code, comment, pull = submit(body(GOOD, end))
    assert code == 0
    assert (pull["title"], pull["head"], pull["base"]) == ("[paper] scarecrow", "paper/issue-12", "main")
    assert pull["body"].startswith("Closes #12\n")
    assert "`scarecrow`" in comment
    entry = entries(project)[-1]
    assert entry["links"] == {"code": "https://github.com/gardeners/scarecrow"}
    assert entry["authors"] == ["Zoë Müller", "Łukasz Żak"]
    assert entry["venue"] == {"name": "NeurIPS", "year": 2025, "track": "main", "status": "accepted"}
    assert (entry["type"], entry["stage"], entry["curation"]["source"]) == ("defense", "alignment", "issue 12")
    assert "unsure" not in entry
    update = json.loads((project / "out" / "update.json").read_bytes())
    assert update == {"title": pull["title"], "body": pull["body"]}


def test_a_known_paper_gets_an_answer_and_no_pull_request(project: Path, submit: Any) -> None:
    before = (project / "papers.yaml").read_bytes()
    code, comment, pull = submit(body({**GOOD, "paper": "2402.01010"}))
    assert (code, pull) == (0, None)
    assert "Entry `shield` is this paper already" in comment
    assert (project / "papers.yaml").read_bytes() == before


HOSTILE = [
    "$(touch pwned)", "`touch pwned`", "; touch pwned #", "${{ secrets.GITHUB_TOKEN }}", "' || touch pwned || '",
    '"; touch pwned; "', "@everyone @gardeners/owners", "fixes #1, closes gardeners/atlas#2", "![x](https://evil.example/x)",
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "[x](javascript:alert(1))",
    "````\nout of the fence",
    "]}, {id: evil}", '", evil: "', "\n    evil: true", "!!python/object/apply:os.system [touch pwned]", "&a [*a, *a]",
    "| folded", "- id: evil", "::set-output name=x::y", "::add-mask::x", "x\n::error::x", "\u202eevil",
    "a\x00b", "\x1b[31m",
    "ﷺ" * 700, "{{ 7 * 7 }}", "%0A::x", "null", "~", "yes", "2024-01-01", "1e3", "# comment", "---", "...", "\ufeffx",
]  # fmt: skip


FREE = ("title", "authors", "why")
PAIRS = [(field, number) for field in LABELS for number in range(len(HOSTILE)) if field in FREE or number % 6 == 0]


@pytest.mark.parametrize(("field", "number"), PAIRS)
def test_hostile_answers_are_text_or_refused(project: Path, submit: Any, field: str, number: int) -> None:
    text, before = HOSTILE[number], entries(project)
    code, comment, pull = submit(body({**GOOD, field: text}))
    after = entries(project)
    assert not (project / "pwned").exists()
    if pull is None:
        assert (code, after) == (1, before)
        assert not (project / "out" / "pull.json").exists()
    else:
        assert len(after) == len(before) + 1
        assert [entry for entry in after if entry in before] == before
        assert "evil" not in after[-1]
        assert re.fullmatch(r"\[paper\] [a-z0-9-]+", pull["title"])
        assert pull["head"] == "paper/issue-12"
    for shown in (comment, pull["body"] if pull else ""):
        outside = re.sub(r"`[a-z0-9-]+`", "", without_code(shown))  # a slug may have any words of a title
        assert not re.search(r"@\w|[<]\w|!\[|\]\(|pwned|evil|::", outside), outside
        assert re.findall(r"#\d+", outside) in ([], ["#12"])


def without_code(text: str) -> str:
    """The Markdown outside of fenced blocks, as CommonMark delimits them (section 4.5)."""
    outside, fence = [], ""
    for line in text.split("\n"):
        if fence:
            closing = re.fullmatch(r" {0,3}(`{3,})[ \t]*", line)
            fence = "" if closing and len(closing[1]) >= len(fence) else fence
        elif opening := re.match(r" {0,3}(`{3,})[^`]*$", line):
            fence = opening[1]
        else:
            outside.append(line)
    assert not fence, "an open fence"
    return "\n".join(outside)


def test_a_wrong_fence_would_be_seen() -> None:
    broken = "```\n```` \n@everyone"
    assert "@everyone" in without_code(broken)
    assert "@everyone" not in without_code(markdown.fenced(broken))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (None, "'Address or id' is not answered"),
        ("", "'Address or id' is not answered"),
        ("### Title\n\nx", "'Address or id' is not answered"),
        (body(GOOD) + "\n\n### Type\n\nattack", "'Type' is answered twice"),
        (body({**GOOD, "type": "atack"}), "did you mean 'attack'"),
        (body({**GOOD, "type": "attack"}), "only defenses have a stage"),
        (body({**GOOD, "title": "two\nlines"}), "has more than one line"),
        (body({**GOOD, "title": "x" * 601}), "more than 600 characters"),
        (body({**GOOD, "why": "x" * 100_000}), "more than 65536 characters"),
        (body({**GOOD, "date": "10.12.2024"}), "write it as 2024-02-29"),
        (body({**GOOD, "venue": "Gardeners' Weekly"}), "unknown venue"),
        (body({**GOOD, "code": "https://github.com/a/b?access_token=x"}), "token"),
    ],
)
def test_what_is_missing_or_wrong_is_told_in_the_issue(submit: Any, text: str | None, hint: str) -> None:
    code, comment, pull = submit(text)
    assert (code, pull) == (1, None)
    assert hint in comment


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"{}", b'{"issue": null}', b"\xff\xfe", b'{"issue": {"number": "12; rm -rf /", "body": ""}}',
        b'{"issue": {"number": true, "body": ""}}', b'{"issue": {"number": -1, "body": ""}}',
        b'{"issue": {"number": 1, "body": ["x"]}}', b'{"issue": {"number": 1, "body": "' + b"x" * 1_100_000 + b'"}}',
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(project: Path, submit: Any, raw: bytes) -> None:
    code, comment, pull = submit(None, raw=raw)
    assert (code, pull) == (1, None)
    assert comment.startswith(proposal.MARK)


def test_headings_in_an_answer_are_part_of_it(project: Path, submit: Any) -> None:
    code, _, pull = submit(body({**GOOD, "why": "### Reasons\n\n### More"}))
    assert (code, bool(pull)) == (0, True)


@pytest.mark.parametrize("form", sorted(FORMS.glob("*.yml")), ids=lambda path: path.stem)
def test_forms_keep_githubs_rules(form: Path) -> None:
    """Keys, unique ids and labels, options: docs.github.com, 'Syntax for GitHub's form schema'."""
    data = YAML(typ="safe").load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert set(data) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(data) <= {"name", "description", "body", "title", "labels"}
    elements = [element for element in data["body"] if element["type"] != "markdown"]
    assert elements
    for element in data["body"]:
        assert element["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
        assert set(element) <= {"type", "id", "attributes", "validations"}
        options = element["attributes"].get("options", [])
        assert bool(options) == (element["type"] in ("dropdown", "checkboxes"))
        assert all(isinstance(o, str) or set(o) <= {"label", "required"} for o in options)
        assert "None" not in options
    for key in ("id",):
        assert len({element[key] for element in elements}) == len(elements)
    assert len(questions(form)) == len(elements)


def test_the_new_paper_form_asks_what_the_schema_knows() -> None:
    from typing import get_args

    from catalog.taxonomy import PaperType, Stage

    asked = {field.id: field for field in questions(FORMS / "new-paper.yml").values()}
    assert asked["type"].options == get_args(PaperType)
    assert asked["stage"].options == get_args(Stage)
    assert {field.id: label for label, field in questions(FORMS / "new-paper.yml").items()} == LABELS


def test_review_shows_what_is_new_changed_and_gone(project: Path, hft: Any) -> None:
    before = (project / "papers.yaml").read_text(encoding="utf-8")
    base = project / "base.yaml"
    base.write_text(before, encoding="utf-8")
    head = project / "head.yaml"
    breaker = before[before.index("  - id: breaker") : before.index("\n  # the defense everyone")]
    new = breaker.replace("breaker", "digger").replace("2310.12345", "2310.54321").replace("A Handful", "@all Spades")
    changed_text = before.replace(breaker, new).replace("NeurIPS, year: 2024", "NeurIPS, year: 2025")
    head.write_text(changed_text, encoding="utf-8")
    assert hft("github", "entry", str(base), str(head), "-o", str(project / "out.json")).exit_code == 0
    text = json.loads((project / "out.json").read_bytes())["body"]
    assert text.startswith("<!-- hft entry -->")
    assert "### New: `digger`" in text
    assert "### Changed: `shield`" in text
    assert "-    venue: {name: NeurIPS, year: 2024" in text
    assert "+    venue: {name: NeurIPS, year: 2025" in text
    assert "### Gone\n\n`breaker`" in text
    assert "<https://arxiv.org/abs/2310.54321>" in text
    assert "@all" not in without_code(text)


@pytest.mark.parametrize(
    "head",
    [
        "", "- a\n- b", "papers: [", "schema: 1\npapers:\n  - @all\n",
        "papers:\n  - id: '@all <b>'\n    ids: {arxiv: '<x>'}\n",
        "papers:\n  - id: x\n    ids: {doi: '10.1/a)[x](https://evil.example'}\n",
        "a: &a [x]\nb: &b [*a, *a]\npapers:\n  - *b\n",
        "papers:\n" + "".join(f"  - id: x{n}\n    title: '{'y' * 80}'\n\n" for n in range(900)),
    ],
)  # fmt: skip
def test_review_of_a_hostile_catalogue_stays_a_comment(project: Path, hft: Any, head: str) -> None:
    (project / "head.yaml").write_text(head, encoding="utf-8")
    result = hft("github", "entry", "papers.yaml", "head.yaml", "-o", "out.json")
    assert result.exit_code == 0, result.output
    text = json.loads((project / "out.json").read_bytes())["body"]
    assert len(text) < 65_536
    assert not re.search(r"@\w|<b>|\]\(|evil", without_code(text))


@pytest.mark.parametrize(
    ("files", "tests"),
    [
        ([], []),
        (["README.md", "reproduce/results/micro/lisa/0123.json"], []),
        (["papers.yaml"], [*changed.CATALOGUE, "tests/reproduce/test_contract.py"]),
        (["reproduce/papers/p2405_18641_lisa.py", "tests/reproduce/test_lisa.py"],
         [*changed.CONTRACT, "tests/reproduce/test_lisa.py"]),
        ([".github/workflows/weekly.yml"], ["tests/catalog/test_workflows.py"]),
        (["papers.yaml", "catalog/lint.py"], ["tests"]),
        (["tests/$(touch pwned)/test_x.py", "tests/test_x.py; x"], ["tests"]),
        (["tests/conftest.py"], ["tests"]),
    ],
)  # fmt: skip
def test_tests_follow_from_what_changed(project: Path, hft: Any, files: list[str], tests: list[str]) -> None:
    (project / "changed.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    assert hft("github", "tests", "changed.txt").stdout.split() == sorted(tests)


def test_named_tests_exist() -> None:
    named = {*changed.CATALOGUE, *changed.CONTRACT, changed.WORKFLOWS}
    assert not [name for name in named if not (HOME / name).is_file()]


def test_a_release_needs_one_version_everywhere(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CITATION.cff", ".zenodo.json", "CHANGELOG.md"):
        shutil.copy(HOME / name, tmp_path / name)
    with pytest.raises(RefusedError, match="has no section"):
        release.notes(tmp_path, "v0.1.0")
    log = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8").replace("## Unreleased", "## 0.1.0", 1)
    (tmp_path / "CHANGELOG.md").write_text(log, encoding="utf-8")
    assert release.notes(tmp_path, "v0.1.0").startswith("- ")
    with pytest.raises(RefusedError) as refused:
        release.notes(tmp_path, "v0.2.0")
    assert {p.where for p in refused.value.problems} == {
        "pyproject.toml",
        "CITATION.cff",
        ".zenodo.json",
        "CHANGELOG.md",
    }


def test_a_report_fences_what_commands_printed(project: Path, hft: Any) -> None:
    (project / "sync.txt").write_text("retitled: @everyone ``` <b>", encoding="utf-8")
    result = hft("github", "report", "Weekly", "sync.txt", "--branch", "bot/weekly", "-o", "out")
    assert result.exit_code == 0, result.output
    pull = json.loads((project / "out" / "pull.json").read_bytes())
    assert (pull["title"], pull["head"]) == ("Weekly", "bot/weekly")
    assert "everyone" in pull["body"]
    assert "@everyone" not in without_code(pull["body"])


def test_reading_a_form_loads_nothing_that_runs_code(tmp_path: Path) -> None:
    code = "import sys; import catalog.github.proposal, catalog.github.review; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOME)
    assert not {"torch", "pickle5", "transformers"} & set(done.stdout.split())
