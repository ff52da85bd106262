"""Venue names: every spelling of the field's hand-kept list and of common BibTeX, against what they stand for."""

import datetime
from pathlib import Path

import pytest

from catalog import papers, venues

ROOT = Path(__file__).resolve().parents[2]
DATE = datetime.date(2024, 10, 5)

SPELLINGS = {
    ("NeurIPS", 2024, "main"): ["NeurIPS2024", "NeurIPS 2024", "Neurips'24", "NeurIPS’24", "NIPS 2024"],
    ("NeurIPS", 2025, "main"): [
        "NeurIPS 2025",
        "NeurIPS 2025 (Spotlight)",
        "NeurIPS 2025 Datasets and Benchmarks Track",
        "Advances in Neural Information Processing Systems 38 (NeurIPS 2025)",
    ],
    ("ICLR", 2024, "main"): ["ICLR2024", "ICLR 2024", "Accepted to ICLR 2024"],
    ("ICLR", 2026, "main"): ["ICLR2026 Oral", "OpenAI technical report, ICLR2026", "ICLR'26"],
    ("ICML", 2025, "main"): [
        "ICML2025",
        "Proceedings of the 42nd International Conference on Machine Learning, 2025",
    ],
    ("ACL", 2024, "findings"): [
        "ACL2024 (Findings)",
        "ACL 2024 Findings",
        "Findings of ACL 2024",
        "Findings of the Association for Computational Linguistics: ACL 2024",
    ],
    ("EMNLP", 2024, "findings"): ["Findings of the Association for Computational Linguistics: EMNLP 2024"],
    ("ACL", 2025, "main"): [
        "ACL2025",
        "Annual Meeting of the Association for Computational Linguistics (Volume 1: Long Papers), 2025",
    ],
    ("NAACL", 2024, "main"): ["NAACL2024", "NAACL 2024 (short)"],
    ("COLM", 2025, "main"): ["COLM2025", "Conference on Language Modeling 2025"],
    ("AAAI", 2025, "main"): [
        "AAAI2025",
        "AAAI-25",
        "Proceedings of the AAAI Conference on Artificial Intelligence 2025",
    ],
    ("IEEE S&P", 2025, "main"): ["S&P2025", "IEEE S&P 2025", "IEEE Symposium on Security and Privacy 2025"],
    ("NDSS", 2025, "main"): ["NDSS2025"],
    ("ICASSP", 2026, "main"): ["ICASSP26", "ICASSP2026"],
    ("ACM CCS", 2026, "main"): ["ACM CCS 2026", "CCS 2026"],
    ("AIES", 2023, "main"): ["AIES 2023"],
    ("Nature", 2026, "journal"): ["Nature 2026"],
    ("ACM Computing Surveys", 2024, "journal"): ["ACM CSUR", "ACM Computing Surveys", "ACM Comput. Surv."],
    ("Knowledge-Based Systems", 2024, "journal"): ["KBS", "Knowledge-Based Systems"],
    ("TMLR", 2024, "journal"): ["TMLR", "Transactions on Machine Learning Research"],
    ("IEEE TIFS", 2025, "journal"): ["IEEE TIFS 2025"],
    ("SeT LLM", 2024, "workshop"): ["SeT LLM workshop@ ICLR 2024", "SeT LLM workshop @ ICLR 2024"],
    ("ME-FoMo", 2024, "workshop"): ["ME-FoMo@ICLR2024"],
    ("AIA", 2025, "workshop"): ["AAAI25-AIA", "AIA @ AAAI 2025"],
    ("DAI", 2026, "workshop"): ["AAAI26 DAI workshop"],
    ("CALCS", 2024, "workshop"): ["CALCS"],
    ("TAIG", 2025, "workshop"): ["ICML2025 Workshop TAIG", "TAIG workshop @ ICML 2025"],
    ("R2-FM", 2025, "workshop"): ["ICML 2025 R2-FM Workshop"],
    ("BuildTrust", 2025, "workshop"): ["ICLR 2025 Workshop BuildTrust"],
    ("Safe Generative AI", 2024, "workshop"): [
        "NeurIPS2024 workshop SafeGenAi",
        "NeurIPS 2024 Workshop on Safe Generative AI",
        "NeurIPS2024 Safe GenAI workshop",
    ],
    ("arXiv", 2024, None): [
        "arXiv",
        "arxiv",
        "arXiv.org",
        "preprint",
        "CoRR",
        "arXiv preprint arXiv:2402.01109",
        "CoRR abs/2402.01109",
        "ICLR20206 submission",
        "Under review at ICLR 2026",
        "Submitted to ICML 2025",
    ],
    ("OpenReview", 2024, None): ["OpenReview"],
}


@pytest.mark.parametrize(("wanted", "raw"), [(wanted, raw) for wanted, raws in SPELLINGS.items() for raw in raws])
def test_a_spelling_is_read_as_the_venue_it_means(wanted: tuple[str, int, str | None], raw: str) -> None:
    found = venues.normalise(raw, DATE)
    assert found is not None
    assert (found.name, found.year, found.track) == wanted
    assert found.status == ("preprint" if wanted[0] in ("arXiv", "OpenReview") else "accepted")


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "unknown",
        "Nature Communications 2025",
        "ICLR 2025 Workshop on Something Nobody Knows",
        "XYZ@NeurIPS2024",
        "Springer",
        "AAAI25-XYZ",
        "Asian Conference on Machine Learning 2025",
    ],
)
def test_what_is_not_known_is_never_taken_for_something_near(raw: str) -> None:
    assert venues.normalise(raw, DATE) is None


def test_no_year_and_no_date_is_no_venue() -> None:
    assert venues.normalise("TMLR", None) is None
    assert venues.normalise("arXiv", None) is None


def test_every_name_stands_in_the_list_of_the_catalogue() -> None:
    head, _ = papers.load(ROOT / papers.FILE)
    kinds = {name: venue.kind for name, venue in head.venues.items()}
    for names, kind in (
        (venues.WORKSHOPS, "workshop"),
        (venues.JOURNALS, "journal"),
        (venues.CONFERENCES, "conference"),
        ({"arXiv": "", "OpenReview": ""}, "preprint"),
    ):
        for name in names:
            assert kinds.get(name) == kind, name
    assert set(kinds) == {*venues.WORKSHOPS, *venues.JOURNALS, *venues.CONFERENCES, "arXiv", "OpenReview"}
