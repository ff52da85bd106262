import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import urlopen

import pytest
from fictional import lay_out
from lxml import html

from catalog import atlas, pages, papers
from catalog.meta import effects
from reproduce import record


def load(site, path):
    return html.fromstring((site / path / "index.html").read_text(encoding="utf-8"))


def outcomes(checkout):
    """Outcome strings by paper, arm, strength, dose or level, mode, ratio and metric, straight from the files.

    The paper of a defense under another paper's attack is `defense@attack`.
    """
    found = defaultdict(dict)
    for path in (checkout / "reproduce/results").glob("*/*/*.json"):
        record = json.loads(path.read_text())
        spec = record["spec"]
        for name, entry in record.get("metrics", {}).items():
            attack = spec["attack"].get("strength", spec["attack"].get("level"))
            attack += f" × {dose:g}" if (dose := spec["attack"].get("dose", 1)) != 1 else ""
            owner, method = spec["paper"], spec["method"]["paper"]
            who = owner if method in (owner, "sft") else f"{method}@{owner}"
            place = who, spec["arm"], attack, spec["mode"], spec["ratio"], name
            found[place][spec["seed"]] = entry["outcomes"]
    return found


def printed(marks):
    """What a proportion must look like on a page, from outcome strings."""
    share = sum(column.count("1") for column in marks.values()) / sum(map(len, marks.values()))
    known = effects.arm(marks)
    interval = f"[{100 * known.low:.0f}, {100 * known.high:.0f}]"
    return f"{100 * share:.0f} {interval} ({len(marks[0])} × {len(marks)})"


def texts(cell):
    return " ".join(cell.text_content().split())


NAMES = {
    "SFT, undefended": ("sft", "main"),
    "Never aligned": ("non-aligned", "main"),
    "PlasterCast rho = 2.0": ("plaster-cast", "main"),
    "NightWatch": ("night-watch", "main"),
    "NightWatch · bare rho = 0.0": ("night-watch", "bare"),
    "wax-seal": ("wax-seal", "main"),
}
COLUMNS = {
    "Harmful score, %": "harmful",
    "Fine-tune accuracy, %": "accuracy",
    "Harmful or incoherent, %": "harmful_plus",
    "Refusal, %": "refusal",
    "Over-refusal, %": "over_refusal",
    "Benign help, %": "benign_help",
}


def check_board(table, condition_of, found):
    """Compare every proportion after fine-tuning in a table with the records; returns how many there were."""
    heads = [texts(head) for head in table.xpath("./thead/tr/th")][1:]
    checked, group = 0, ""
    for row in table.xpath("./tbody/tr"):
        if row.get("class") == "group":
            group = texts(row)
            continue
        name = texts(row.xpath("./th")[0])
        if name not in NAMES or len(row.xpath("./td")) != len(heads):
            continue
        for head, cell in zip(heads, row.xpath("./td"), strict=True):
            if head in COLUMNS:
                marks = found[*NAMES[name], *condition_of(group), COLUMNS[head]]
                assert texts(cell) == printed(marks), (group, name, head)
                checked += 1
    return checked


def test_every_number_of_the_leaderboard_follows_from_the_records(site, checkout):
    found = outcomes(checkout)
    conditions = {
        "Graded attack, full": ("graded", "full", 0.1),
        "Graded attack, fresh": ("graded", "double-lora", 0.1),
        "Graded attack, 2 ×": ("graded × 2", "full", 0.1),
        "Graded attack, 4 ×": ("graded × 4", "full", 0.1),
        "Strong attack, fresh": ("strong", "double-lora", 0.1),
        "Strong attack, adapter": ("strong", "full", 0.1),
    }
    tables = load(site, "generated/leaderboard").xpath("//table[contains(@class, 'board')]")
    assert len(tables) == len(conditions)
    counted = 0
    for table in tables:
        caption = texts(table.xpath("./caption")[0])
        (condition,) = [value for start, value in conditions.items() if caption.startswith(start)]
        counted += check_board(table, lambda _, condition=condition: condition, found)
    assert counted == 6 * (4 + 3 + 2 + 2 + 3 + 3)


def test_every_number_of_a_paper_page_follows_from_the_records(site, checkout):
    found = outcomes(checkout)
    (table,) = load(site, "generated/papers/night-watch").xpath(
        "//table[starts-with(normalize-space(caption), 'NightWatch: Graded attack, full')]"
    )

    def condition(group):
        return "graded", "full", float(group.split()[0]) / 100

    assert check_board(table, condition, found) == 6 * (2 + 2 + 4 + 2)


def test_differences_to_sft_follow_from_the_records(site, checkout):
    found = outcomes(checkout)
    row = load(site, "generated/leaderboard").xpath("(//tr[th/a[text() = 'PlasterCast']])[1]/td")
    for place, name in ((2, "harmful"), (3, "accuracy")):
        ours = found["plaster-cast", "main", "graded", "full", 0.1, name]
        twin = found["sft", "main", "graded", "full", 0.1, name]
        mean = 100 * effects.difference(ours, twin).value
        shown = texts(row[place])
        assert float(shown.split()[0].replace("−", "-")) == pytest.approx(mean, abs=0.0501)
        assert shown.endswith("(60 × 3)")


def test_failures_are_shown_with_their_reason(site):
    wax = texts(load(site, "generated/papers/wax-seal"))
    assert "not-applicable: repairs adapters; full fine-tuning has none (3 seeds)" in wax
    assert "not-applicable" in texts(load(site, "generated/leaderboard"))
    watch = texts(load(site, "generated/papers/night-watch"))
    assert "NightWatch · loud" in watch
    assert "diverged: loss was not finite at step 40 (3 seeds)" in watch


def test_claims_show_their_measured_contrast_or_that_there_is_none(site):
    plaster = load(site, "generated/papers/plaster-cast")
    rows = plaster.xpath("//table[contains(caption, 'Tests of the claims')]/tbody/tr")
    assert [texts(row.xpath("./th")[0]) for row in rows] == ["C1", "C1", "C2", "C2", "C3"]
    assert "points" in texts(rows[0])
    assert "%" in texts(rows[2].xpath("./td")[-2])
    for row in rows[:2]:
        measured, outcome = (texts(cell) for cell in row.xpath("./td")[-2:])
        low, high = (float(x.replace("−", "-")) for x in re.search(r"\[(.+), (.+)\]", measured).groups())
        assert outcome == ("holds" if high <= -5 else "fails" if low > -5 else "open")  # it asks for 5 points less
    counted = Counter(texts(row.xpath("./td")[-1]) for row in rows)
    card = texts(plaster.xpath("//dl[@class = 'card']")[0])
    assert counted == {"holds": 3, "open": 2}
    assert "measured; tests of its claims: 3 hold, 2 are open" in card
    tide = texts(load(site, "generated/papers/tide-charts"))
    assert "basin share at least 0.8" in tide
    assert re.search(r"0\.880 \[0\.805, 0\.955\] \(3 seeds\)\s*holds", tide)
    assert "measured; tests of its claims: 1 holds" in tide
    assert "undefined in every seed" in tide


def test_reported_and_measured_numbers_never_share_a_table(site):
    for path in site.rglob("*.html"):
        for table in html.fromstring(path.read_text(encoding="utf-8")).xpath("//table"):
            heads = [texts(head) for head in table.xpath(".//thead//th")]
            assert not ("Reported" in heads and table.xpath(".//*[@class = 'v']")), path


def test_text_of_the_catalogue_shows_as_itself(site):
    page = load(site, "generated/papers/plaster-cast")
    assert texts(page.xpath("//h1")[0]).startswith("PlasterCast: a Fictional Alignment | that Sets Hard")
    assert "at ratio 0.1 <without> losing accuracy" in texts(page)


def test_no_page_loads_anything_from_another_server(site):
    loads = "//script/@src | //link[not(@rel = 'canonical')]/@href | //img/@src | //source/@srcset | //iframe/@src"
    for path in site.rglob("*.html"):
        page = html.fromstring(path.read_text(encoding="utf-8"))
        outside = [address for address in page.xpath(loads) if urlsplit(address).netloc]
        assert outside == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_internal_links_and_anchors_work(site):
    pages_by_path = {
        path: html.fromstring(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }
    for path, page in pages_by_path.items():
        for address in page.xpath("//a/@href | //img/@src | //link/@href | //script/@src"):
            if urlsplit(address).scheme or urlsplit(address).netloc:
                continue
            target, anchor = urldefrag(address)
            place = (path.parent / unquote(target)).resolve() if target else path
            place = place / "index.html" if place.is_dir() else place
            assert place.is_file(), f"{path}: {address}"
            if anchor and place in pages_by_path and not anchor.startswith("__"):
                assert pages_by_path[place].get_element_by_id(unquote(anchor), None) is not None, f"{path}: {address}"


def test_tables_and_pictures_can_be_read_aloud(site):
    for path in (site / "generated").rglob("*.html"):
        page = html.fromstring(path.read_text(encoding="utf-8"))
        for table in page.xpath("//table[contains(@class, 'atlas')]"):
            assert texts(table.xpath("./caption")[0]), path
            assert all(head.get("scope") for head in table.xpath(".//th")), path
        for picture in page.xpath("//figure//img"):
            assert re.search(r"\d", picture.get("alt")), path


def test_every_paper_has_a_page_and_stands_in_its_list(site, checkout):
    for entry in atlas.read(checkout).papers.values():
        assert (site / "generated/papers" / entry.id / "index.html").is_file()
        listed = load(site, f"generated/taxonomy/{entry.type}").xpath("//th//a/@href")
        assert any(address.endswith(f"papers/{entry.id}/") for address in listed)


def test_what_was_left_out_stands_under_its_rule(checkout, tmp_path):
    shutil.copy(checkout / "papers.yaml", tmp_path)
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    (tmp_path / "SCOPE.md").write_text("| `prompt-only` | Attacks without training |\n| `privacy` | Extraction |\n")
    (tmp_path / "excluded.yaml").write_text(
        "schema: 1\nexcluded:\n  - title: Talking a <Gardener> into Weeds\n"
        '    ids: {arxiv: "2307.00001"}\n    date: 2023-07\n    decision: out\n    rule: prompt-only\n'
        "    why: Only words change\n    decided: 2026-11-20\n"
    )
    pages.generate(atlas.read(tmp_path), tmp_path / "out")
    page = (tmp_path / "out/excluded.md").read_text()
    assert "## Prompt only (1)\n\nAttacks without training." in page
    assert '<a href="https://arxiv.org/abs/2307.00001">Talking a &lt;Gardener&gt; into Weeds</a>' in page
    assert "Only words change" in page
    assert "Privacy" not in page


def test_home_counts_papers_and_records(site, checkout):
    home = texts(load(site, "."))
    records = len(list((checkout / "reproduce/results").glob("*/*/*.json")))
    assert "8 papers" in home
    assert f"{records} run records" in home


def test_calibration_is_on_the_protocol_page(site):
    rows = load(site, "protocol").xpath("//table[contains(caption, 'Calibration')]/tbody/tr")
    assert len(rows) == 3
    assert "0.0 within 0–5 holds" in texts(rows[0])


def test_generating_twice_gives_the_same_bytes(checkout, tmp_path):
    written = []
    for name in ("one", "two"):
        pages.generate(atlas.read(checkout), tmp_path / name)
        written.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files(tmp_path / name)})
    assert written[0] == written[1]


def test_a_catalogue_without_any_record_builds(tmp_path):
    root = lay_out(tmp_path)
    shutil.rmtree(root / "reproduce")
    built = pages.build(root)
    assert "Nothing has been measured yet" in texts(load(built, "."))
    assert "not run yet" in texts(load(built, "generated/papers/plaster-cast"))


def test_a_broken_page_fails_the_build_and_is_named(tmp_path):
    root = lay_out(tmp_path)
    with (root / "site/pages/about.md").open("a") as page:
        page.write("\n[nowhere](missing.md)\n")
    with pytest.raises(RuntimeError, match=r"about\.md"):
        pages.build(root)


def test_runs_on_validation_prompts_stay_out(checkout):
    known = atlas.read(checkout)
    records = list(record.read(checkout / "reproduce/results"))
    tuned = [{**one, "spec": {**one["spec"], "split": "validation"}} for one in records]
    assert atlas.assemble(known.head, known.papers.values(), records + tuned, {}).cells == known.cells


def test_the_built_site_is_served(site):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "import sys, pathlib; from catalog import pages; pages.serve(pathlib.Path(sys.argv[1]), int(sys.argv[2]))",
        str(site),
        str(port),
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                text = urlopen(f"http://127.0.0.1:{port}/").read().decode()
                break
            except URLError:
                time.sleep(0.2)
        assert "<title>" in text
    finally:
        server.terminate()
        server.wait()


def files(folder: Path):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_run_is_named_by_its_label_and_a_printed_number_by_its_paper() -> None:
    known = atlas.assemble(*papers.load(Path(__file__).parents[2] / "papers.yaml"), [], {})
    assert known.name("vlguard+lisa") == "VLGuard (text mix) + Lisa"
    assert known.called("vlguard") == "VLGuard"
    assert known.called("sft") == known.name("sft") == "SFT, undefended"
