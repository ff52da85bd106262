"""One name for each venue: what lists, BibTeX files and comments call it, read into the schema's venue."""

import datetime
import re

from catalog import ids, taxonomy
from catalog.schema import Publication

WORKSHOPS = {
    "SeT LLM": r"set ?llm|secure and trustworthy (large language models|llms?)",
    "ME-FoMo": r"me fomo|mathematical and empirical understanding of foundation models",
    "Safe Generative AI": r"safe ?gen(erative)? ?ai",
    "AIA": r"aia",
    "TAIG": r"taig|technical ai governance",
    "R2-FM": r"r2 fm|reliable and responsible foundation models",
    "DAI": r"dai",
    "CALCS": r"calcs|computational approaches to linguistic code switching",
    "BuildTrust": r"buildtrust|building trust in (language models|llms)( and applications)?",
}
JOURNALS = {
    "TMLR": r"tmlr|transactions on machine learning research",
    "TACL": r"tacl|transactions of the association for computational linguistics",
    "JMLR": r"jmlr|journal of machine learning research",
    "ACM Computing Surveys": r"(acm )?csur|acm comput(ing)? surv(eys)?",
    "Knowledge-Based Systems": r"kbs|knowledge based systems",
    "IEEE TIFS": r"(ieee )?tifs|ieee trans(actions)? on information forensics and security",
    "Nature": r"nature",
}
CONFERENCES = {
    "NeurIPS": r"neurips|nips|(advances in )?neural information processing systems",
    "ICLR": r"iclr|learning representations",
    "ICML": r"icml|machine learning",
    "COLM": r"colm|language modeling",
    "EMNLP": r"emnlp|empirical methods in natural language processing",
    "NAACL": r"naacl|(nations of the americas|north american) chapter of the association for computational linguistics",
    "EACL": r"eacl|european chapter of the association for computational linguistics",
    "ACL": r"acl|meeting of the association for computational linguistics",
    "COLING": r"(lrec )?coling|computational linguistics",
    "AAAI": r"aaai( conference on artificial intelligence)?|artificial intelligence",
    "IJCAI": r"ijcai|joint conference on artificial intelligence",
    "CVPR": r"cvpr|computer vision and pattern recognition",
    "ICCV": r"iccv|(international )?conference on computer vision",
    "ECCV": r"eccv|european conference on computer vision",
    "KDD": r"(acm )?(sig)?kdd( conference on knowledge discovery and data mining)?|knowledge discovery and data mining",
    "AIES": r"aies|(aaai )?(acm )?(conference on )?ai ethics and society",
    "ICASSP": r"(ieee )?icassp|acoustics speech and signal processing",
    "ACM CCS": r"(acm )?ccs|computer and communications security",
    "IEEE S&P": r"(ieee )?s&p|oakland|security and privacy",
    "NDSS": r"ndss|network and distributed system security( symposium)?",
    "USENIX Security": r"usenix( security)?",
    "SaTML": r"(ieee )?satml|secure and trustworthy machine learning",
    "WCNC": r"(ieee )?wcnc|wireless communications and networking conference",
}
PREPRINT = r"arxiv\b.*|corr\b.*|abs \d{4} \d+|preprints?|under review|submitted\b.*"
UNDECIDED = re.compile(r"(?i)\b(submission|submitted|under review|withdrawn|rejected)\b")
NOISE = re.compile(
    r"\b(proceedings|proc|conference|conf|symposium|annual|international|intl|ieee|cvf|acm|the|of|on|in|for|and|at|to|appear"
    r"|accepted|oral|spotlight|poster|highlight|main|track|tracks|long|short|papers?|volume|vol|association"
    r"|computational|linguistics|findings|workshops?|datasets?|benchmarks?|human|language|technologies|systems?"
    r"|\d+|\d+(st|nd|rd|th)|[ivxl]+)\b"
)


def normalise(raw: str, date: datetime.date | None) -> Publication | None:
    """The venue that a list, BibTeX field or arXiv comment names; None when it is not a known one.

    Without a year in the text the year of `date` stands in: the earliest that the venue can have. A submission that
    is not decided is a preprint, and a workshop that is not known is nothing, never the main track of its host.
    """
    year = _year(raw) or (date.year if date else None)
    parts = [_plain(part) for part in (raw, *re.split(r"[,;|:()]", raw))]
    if any(re.fullmatch(PREPRINT, part) for part in parts) or UNDECIDED.search(raw):
        posted = _arxiv_year(raw) or (date.year if date else year)
        return Publication(name="arXiv", year=posted, status="preprint") if posted else None
    if any(re.fullmatch(r"openreview( \d{4})?", part) for part in parts):
        year = date.year if date else year
        return Publication(name="OpenReview", year=year, status="preprint") if year else None
    found = next((found for part in parts if (found := _known(part))), None)
    if found is None or year is None:
        return None
    name, track = found
    if track == "main" and (re.search(r"(?i)workshop|@", raw)):
        return None
    if track == "main" and re.search(r"(?i)findings", raw):
        track = "findings"
    return Publication(name=name, year=year, track=track, status="accepted")


def _known(text: str) -> tuple[str, taxonomy.Track] | None:
    """Name and track of a venue when nothing but words without meaning surround it."""
    for name, words in WORKSHOPS.items():
        if re.search(rf"\b({words})\b", text):
            return name, "workshop"
    kinds: tuple[tuple[dict[str, str], taxonomy.Track], ...] = ((JOURNALS, "journal"), (CONFERENCES, "main"))
    for names, track in kinds:
        for name, words in names.items():
            match = re.search(rf"(?:^|(?<=\s))({words})(?:$|(?=\s))", text)
            if match and not NOISE.sub("", text[: match.start()] + text[match.end() :]).strip():
                return name, track
    return None


def _plain(text: str) -> str:
    """Lower case words; a year or short year is no longer glued to its venue."""
    text = re.sub(r"(?i)([a-z&])['’-]?((?:19|20)\d\d|\d\d)(?!\d)", r"\1 \2", text)
    return " ".join(re.sub(r"[^a-z0-9&]+", " ", text.casefold()).split())


def _year(text: str) -> int | None:
    if found := re.search(r"(?<!\d)(?:19|20)\d\d(?![\d.]\d)", text):
        return int(found[0])
    found = re.search(r"(?i)[a-z] ?['’-]?(\d\d)(?!\d)", text)
    return 2000 + int(found[1]) if found else None


def _arxiv_year(text: str) -> int | None:
    found = re.search(rf"(?<!\d)(?:{ids.ARXIV})(?!\d)", text)
    return ids.arxiv_month(found[0])[0] if found else None
