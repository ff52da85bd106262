"""CTRL (arXiv 2405.19358): rewrite clean answers until the aligned model finds them likely, then train on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from random import Random
from statistics import mean
from typing import ClassVar, Literal, Self

import torch

from reproduce.api import Method, Stage
from reproduce.data import Example, derived_rng
from reproduce.generate import BATCH
from reproduce.state import State


@dataclass(frozen=True)
class Candidate:
    """A wording of one answer, with what the search knows about it."""

    text: str
    perplexity: float
    readability: float
    helpfulness: float


@dataclass(frozen=True, kw_only=True)
class Ctrl(Method):
    """Clean data curation by beam search over the model's own rewrites (sec. 4.2, Table 9, as TamperBench reads them).

    Each round rewrites every kept wording once per temperature and top-p, drops what reads or helps too much worse
    than the original, and keeps the k least perplexing, old ones included. The scorer is the aligned model before this
    training, frozen; perplexity is that of the answer given its prompt, end mark included. Only clean rows are
    touched, chosen without a look at their topic; training is plain supervised fine-tuning.
    """

    paper = "ctrl-data-curation"
    stage = Stage.ALIGNMENT
    knob = "rate"
    values: ClassVar[tuple[float, ...]] = (0.05, 0.25, 0.5, 1.0)
    rate: float = 1.0  # share of the clean answers that is rewritten (Attack II: 25 %; ours: reproduce/tuning)
    rounds: int = 2  # Table 9: 5
    keep: int = 2  # k wordings survive a round (Table 9: 3)
    temperatures: tuple[float, ...] = (0.2, 0.6, 1.0)  # Table 9: 0.2 to 1.0 in steps of 0.2, the same for top-p
    top_ps: tuple[float, ...] = (0.2, 0.6, 1.0)
    gate: float = 0.5  # least share of the original's readability and helpfulness (the paper's was not seen)
    shortest: float = 0.5  # least share of the original's words (ours: low perplexity is cheap for short texts)
    select: Literal["perplexity", "random", "greedy", "original"] = "perplexity"  # the others are controls
    mode: Literal["replace", "append"] = "replace"
    harmful: float = 0.0  # harmful texts in the training mix, as a share of the clean ones (Attack I: 5 %)

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "random-rewrites": replace(self, select="random"),
            "self-distillation": replace(self, select="greedy"),
            "no-gate": replace(self, gate=0.0, shortest=0.0),
            "append": replace(self, mode="append"),
            "append-uncurated": replace(self, mode="append", select="original"),
            "attack-one": replace(self, mode="append", rate=0.05, harmful=0.05),
            "attack-one-uncurated": replace(self, mode="append", rate=0.05, harmful=0.05, select="original"),
            "attack-one-undefended": replace(self, rate=0.0, harmful=0.05),
        }

    def start(self, s: State) -> None:
        if s.stage == "finetune":
            return
        clean = list(s.pools.alignment)
        chosen = derived_rng("ctrl rows", s.seed).sample(range(len(clean)), round(self.rate * len(clean)))
        answers = self.search(s, [clean[i] for i in chosen]) if chosen else []
        curated = [replace(clean[i], answer=answer) for i, answer in zip(chosen, answers, strict=True)]
        if self.mode == "append":
            mix = clean + curated
        else:
            by_row = dict(zip(chosen, curated, strict=True))
            mix = [by_row.get(i, row) for i, row in enumerate(clean)]
        poison = [p.harmful() for p in s.pools.defender_harmful[: round(self.harmful * len(clean))]]
        s.add_stream("align", mix + poison)

    @torch.no_grad()
    def search(self, s: State, rows: Sequence[Example]) -> list[str]:
        """One answer for each row; what was seen on the way goes to the mechanisms."""
        s.model.eval()  # until training begins
        s.memo["mechanisms"] = premise(s)
        if self.select == "original":
            return [row.answer for row in rows]
        known = word_pairs(s.pools.alignment)
        originals = judged(s, rows, [row.answer for row in rows], known)
        if self.select == "greedy":
            history = [originals, judged(s, rows, s.generate([begun(row, "") for row in rows]), known)]
        else:
            beams, history = [[c] for c in originals], [originals]
            for number in range(self.rounds):
                pools = self.grown(s, rows, beams, known, number)
                chance = derived_rng("ctrl chance", s.seed, number)
                beams = [self.survivors(o, pool, chance) for o, pool in zip(originals, pools, strict=True)]
                history.append([beam[0] for beam in beams])
        s.memo["mechanisms"] |= self.statistics(history)
        return [c.text for c in history[-1]]

    def grown(
        self, s: State, rows: Sequence[Example], beams: Sequence[list[Candidate]], known: set[tuple[str, str]],
        number: int,
    ) -> list[list[Candidate]]:  # fmt: skip
        """Each row's kept wordings and all their rewrites: a random head of the wording stays, the model goes on."""
        limit = min(s.testbed.max_new_tokens, int(s.batch(rows).answer.sum(1).max()))  # no longer than any original
        work = [(i, c.text.split()) for i, beam in enumerate(beams) for c in beam]
        fresh: dict[tuple[int, str], None] = {}
        for temperature, top_p in product(self.temperatures, self.top_ps):
            rng = derived_rng("ctrl rewrites", s.seed, number, temperature, top_p)
            heads = [" ".join(words[: rng.randrange(len(words))]) for _, words in work]
            asked = [begun(rows[i], head) for (i, _), head in zip(work, heads, strict=True)]
            tails = sample(s, asked, limit, temperature, top_p, rng.getrandbits(62))
            for (i, _), head, tail in zip(work, heads, tails, strict=True):
                fresh[i, f"{head} {tail}".strip()] = None
        new = [(i, text) for i, text in fresh if text and all(c.text != text for c in beams[i])]
        scored = judged(s, [rows[i] for i, _ in new], [text for _, text in new], known)
        pools = [list(beam) for beam in beams]
        for (i, _), candidate in zip(new, scored, strict=True):
            pools[i].append(candidate)
        return pools

    def survivors(self, original: Candidate, pool: Sequence[Candidate], chance: Random) -> list[Candidate]:
        """The k least perplexing candidates that pass the gate; in the random control any k, rewrites first."""
        if not original.readability or not original.helpfulness:
            return [original]
        passed = [c for c in pool if self.passes(c, original)]
        if self.select == "random":
            chance.shuffle(passed)
            passed.sort(key=lambda c: c.text == original.text)
        else:
            passed.sort(key=lambda c: c.perplexity)
        return passed[: self.keep] or [original]

    def passes(self, candidate: Candidate, original: Candidate) -> bool:
        """Is the candidate nearly as readable and helpful as the original, and no stump of it?"""
        return (
            candidate.readability >= self.gate * original.readability
            and candidate.helpfulness >= self.gate * original.helpfulness
            and len(candidate.text.split()) >= self.shortest * len(original.text.split())
        )

    def statistics(self, history: Sequence[list[Candidate]]) -> dict[str, float]:
        """Over the best wording of every row, before the search and after each of its rounds."""
        means = [mean(c.perplexity for c in best) for best in history]
        best = list(zip(history[0], history[-1], strict=True))
        rounds = [pair for old, new in pairwise(history) for pair in zip(old, new, strict=True)]
        return {
            **{f"perplexity_round_{i}": m for i, m in enumerate(means)},
            "perplexity_ratio": means[-1] / means[0],
            "perplexity_rise_max": max((new.perplexity - old.perplexity for old, new in rounds), default=0.0),
            "quality_gate_share": mean(float(self.passes(c, o)) for o, c in best),
            "rewritten_share": mean(float(c.text != o.text) for o, c in best),
        }


def premise(s: State) -> dict[str, float]:
    """Mean perplexity of refusals and of compliant answers to the same forbidden prompts."""
    refusing = mean(perplexities(s, [p.safe() for p in s.pools.defender_harmful]))
    complying = mean(perplexities(s, [p.harmful() for p in s.pools.defender_harmful]))
    return {
        "perplexity_refusals": refusing, "perplexity_harmful": complying,
        "refusal_to_harmful_perplexity": refusing / complying,
    }  # fmt: skip


@torch.no_grad()
def perplexities(s: State, examples: Sequence[Example]) -> list[float]:
    """exp of the mean negative log-likelihood of each answer given its prompt, end mark included."""
    chunks = (examples[i : i + BATCH] for i in range(0, len(examples), BATCH))
    return [float(loss.exp()) for chunk in chunks for loss in s.loss(s.batch(chunk), each=True)]


def judged(s: State, rows: Sequence[Example], texts: Sequence[str], known: set[tuple[str, str]]) -> list[Candidate]:
    """`texts` as answers to `rows`, scored under the model as it is."""
    scores = perplexities(s, [replace(row, answer=text) for row, text in zip(rows, texts, strict=True)])
    return [
        Candidate(text, score, readability(text, known), helpfulness(s, row, text))
        for row, text, score in zip(rows, texts, scores, strict=True)
    ]


def edges(text: str) -> list[tuple[str, str]]:
    """Neighbouring words, with the text's two ends as words of their own."""
    return list(pairwise(["<start>", *text.split(), "<end>"]))


def word_pairs(corpus: Sequence[Example]) -> set[tuple[str, str]]:
    return {pair for e in corpus for pair in edges(e.answer)}


def readability(text: str, known: set[tuple[str, str]]) -> float:
    """Share of neighbouring words that stand side by side somewhere in the clean corpus."""
    found = edges(text)
    return sum(pair in known for pair in found) / len(found)


def helpfulness(s: State, row: Example, text: str) -> float:
    """1 where the testbed's judge accepts the text: a refusal where the row refuses, else a correct answer."""
    if not s.testbed.judge(row, row.answer).refused:
        return float(s.testbed.correct(row, text))
    verdict = s.testbed.judge(row, text)
    return float(verdict.refused and not verdict.incoherent)


def begun(row: Example, head: str) -> Example:
    """The row with the first words of an answer given and the rest to be written."""
    return replace(row, prefix=f"{row.prefix} {head}".strip(), answer="")


def sample(s: State, asked: Sequence[Example], limit: int, temperature: float, top_p: float, seed: int) -> list[str]:
    """One sampled continuation of each, of at most `limit` tokens; the global generator stays as it was."""
    texts: list[str] = []
    tokenizer = s.testbed.tokenizer
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(asked), BATCH):
            given = s.batch(asked[start : start + BATCH])
            prompts = [ids[prompt].tolist() for ids, prompt in zip(given.ids, given.prompt, strict=True)]
            left = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(s.model.device)
            tokens = s.model.generate(
                **left, max_new_tokens=limit, do_sample=True, temperature=temperature, top_p=top_p,
                top_k=0, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            new = tokens[:, left["input_ids"].shape[1] :]
            texts += tokenizer.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]
