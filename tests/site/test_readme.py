import json
import re

import pytest
from fictional import PAPERS, REPOSITORY, lay_out

from catalog import readme
from catalog.meta import effects

TEXT = """\
# Atlas

By hand, before.

<!-- generated:counts -->
<!-- /generated:counts -->

<!-- generated:headline -->
stale
<!-- /generated:headline -->

<!-- generated:taxonomy -->
<!-- /generated:taxonomy -->

By hand, after.
"""


@pytest.fixture
def root(tmp_path):
    lay_out(tmp_path)
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path


def test_writing_fills_the_regions_and_leaves_the_rest(root):
    readme.write(root)
    written = (root / "README.md").read_text()
    assert readme.drift(root) == []
    bare = re.sub(r"(<!-- generated:\S+ -->\n).*?(<!-- /)", r"\1\2", written, flags=re.DOTALL)
    assert bare == TEXT.replace("stale\n", "")
    readme.write(root)
    assert (root / "README.md").read_text() == written


def test_numbers_are_those_of_the_records(root):
    table = readme.regions(root)["taxonomy"]
    for paper, mode, prefix in (("plaster-cast", "full", ""), ("wax-seal", "double-lora", "fresh adapter: ")):
        marks = {"harmful": {}, "accuracy": {}}
        for path in (root / "reproduce/results/micro" / paper).glob("*.json"):
            record = json.loads(path.read_text())
            spec = record["spec"]
            graded = spec["attack"] == {"paper": "poison", "strength": "graded", "dose": 1.0}
            graded = graded and (spec["arm"], spec["ratio"], spec["mode"]) == ("main", 0.1, mode)
            for name in marks if graded and record["status"] == "ok" else ():
                marks[name][spec["seed"]] = record["metrics"][name]["outcomes"]
        cells = []
        for outcomes in marks.values():
            share = sum(map(int, "".join(outcomes.values()))) / sum(map(len, outcomes.values()))
            known = effects.arm(outcomes)
            interval = f"[{100 * known.low:.0f}, {100 * known.high:.0f}]"
            cells.append(f"{prefix}{100 * share:.0f} {interval} (60 × 3)")
        assert f"| {cells[0]} | {cells[1]} |" in table


def test_the_worst_case_of_each_defense_stands_with_its_condition_and_how_many_were_run(root):
    table = readme.regions(root)["taxonomy"]
    told = {}
    for paper, dose in (("plaster-cast", "strong"), ("night-watch", "strong"), ("sft", "strong")):
        marks, right = {}, {}
        for path in sorted((root / "reproduce/results/micro" / paper).glob("*.json")):
            spec = (known := json.loads(path.read_text()))["spec"]
            usual = spec["ratio"] == 0.1 and spec["mode"] == "full" and known["status"] == "ok"
            if usual and spec["attack"]["strength"] == dose:
                marks[spec["seed"]] = known["metrics"]["harmful"]["outcomes"]
                right[spec["seed"]] = known["metrics"]["accuracy"]["outcomes"]
        harmful, accuracy = (
            f"{100 * value.value:.0f} [{100 * value.low:.0f}, {100 * value.high:.0f}] (60 × 3)"
            for value in (effects.arm(marks), effects.arm(right))
        )
        told[paper] = f"{harmful} at accuracy {accuracy} {dose}"
    assert f"| {told['plaster-cast']}, 6 of 6 |" in table
    assert f"| {told['night-watch']}, 3 of 6 |" in table
    assert f"worst {told['sft']}, 6 of 6)" in table


def test_papers_without_numbers_stand_in_a_list_by_year_and_not_in_a_table(root):
    found = readme.regions(root)["taxonomy"]
    stage = found[found.index("#### Pre-training stage (1)") :].partition("####")[2].partition("####")[0]
    assert "**2025**" in stage
    assert re.search(r"(?m)^- .*A Fictional Defense nobody has Reproduced", stage)
    assert "|" not in stage
    assert re.search(r"(?m)^\| .*PlasterCast", found)
    assert not re.search(r"(?m)^- .*PlasterCast", found)


def test_drift_names_what_changed_and_the_fix(root):
    readme.write(root)
    (root / "README.md").write_text((root / "README.md").read_text().replace("8 papers", "9 papers"))
    assert readme.drift(root) == ["README.md: region counts is out of date; run `hft readme`"]
    readme.write(root)
    (root / "site/pages/assets/headline-dark.svg").unlink()
    assert readme.drift(root) == ["site/pages/assets/headline-dark.svg: out of date; run `hft readme`"]


def test_drift_names_missing_and_unknown_regions(root):
    readme.write(root)
    text = (root / "README.md").read_text().replace("generated:counts", "generated:count")
    (root / "README.md").write_text(text)
    found = readme.drift(root)
    assert any("no region counts" in message for message in found)
    assert any("unknown region count" in message for message in found)


def test_a_large_catalogue_stays_below_the_limit(root):
    head, marker, entries = PAPERS.partition("papers:\n")
    parts = re.split(r"(?m)^(?=  - id: )", entries)[1:]
    many = "".join(
        re.sub(r"(?m)^  - id: (\S+)$", rf"  - id: \1-{number}", part) for number in range(40) for part in parts
    )
    (root / "papers.yaml").write_text(head + marker + many)
    assert sum(len(text.encode()) for text in readme.regions(root).values()) < readme.LIMIT


def test_the_readme_of_the_project_has_every_region():
    text = (REPOSITORY / "README.md").read_text()
    assert {found[2] for found in readme.REGION.finditer(text)} == {"counts", "headline", "taxonomy"}
