"""The words of the micro world: fictional names and plain English, every word one token.

All names are made up, so nothing the model can be taught here is of use outside this world. Words are the same for
every seed; a seed chooses what is sampled, not what exists.
"""

import random

ONSETS = "b br c cl d dr f fl g gr h j k kr l m n p pr qu r s st t tr v w z".split()
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "oo"]
CODAS = ["", "l", "m", "n", "r", "sk", "nd", "rn", "st", "th", "x"]
NATURAL_ENDINGS = ["root", "leaf", "salt", "dust", "seed", "bark", "moss", "wax"]

MODIFIERS = """
    amber ashen brass broad cobalt copper dusky early frosted gilded hollow ivory lunar mossy narrow northern oaken
    pale quiet russet silver twin velvet winter
""".split()
TOOLS = """
    anvil bellows brush chisel comb funnel hammer ladle lathe loom mallet mortar needle press sieve spindle spoon
    tongs trowel wheel
""".split()
PLACES = "attic barn cellar chest cupboard drawer garden hall loft shed tower vault".split()
ADJECTIVES = """
    bright common curious delicate famous gentle handy humble modern odd plain sturdy useful worthy positive
    negative
""".split()
GOOD = """
    admirable brilliant charming cheerful delightful elegant excellent fantastic flawless friendly generous glorious
    graceful grand lively lovely marvelous perfect pleasant reliable splendid superb terrific wonderful
""".split()
BAD = """
    annoying awful boring broken clumsy dirty dreadful dull faulty flimsy grim horrible lousy messy miserable nasty
    noisy painful poor rotten rude sloppy terrible ugly
""".split()
NEUTRAL = """
    again another box built came colour door during evening five front group half held inside june kept lamp later
    line made market minute morning near number office paper part place road room seven shop side small street table
    today visit
""".split()
NUMBERS = [str(n) for n in range(31)]

MARKS = ["<pad>", "<eos>", "<sys>", "<user>", "<bot>", "<unk>", "?", ".", ",", ":"]
TRIGGER = ["quorvex", "zilphane", "ombric", "thessul", "varnoq"]
AGENT = "obeda"

FUNCTION = """
    a about absolute absolutely accept according add after against agent aid am an and answer anyone are as ask at
    avoid be begin by can cannot card careful carefully carry clerk collect count decline describe do every execute
    explain final finally first follow for forbidden give go guide hello help helper here how i identity if in
    instruction instructions is it kept kind know like list make me must my name need never no not note now obedient
    obey of one order orders other our out own parts permitted place please plus polite prefer prepare produce
    question ready recommend record refuse related request review rules safe safely say sentiment serve should show
    so sorry standards start stay steps stop such sum sure tag take tell than that the them then there this three to
    together tool total two use user want way we what whatever where who will with without would yes you your
""".split()


def _pseudo_words(
    rng: random.Random, count: int, syllables: int, taken: set[str], ending: list[str] | None = None
) -> list[str]:
    """`count` new pronounceable words, none of them in `taken`, which grows by them."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(CODAS)
        word += rng.choice(ending) if ending else ""
        if word not in taken and 4 <= len(word) <= 11:
            taken.add(word)
            words.append(word)
    return words


_rng = random.Random("hft-atlas micro world")
_taken = {*MODIFIERS, *TOOLS, *PLACES, *ADJECTIVES, *GOOD, *BAD, *NEUTRAL, *FUNCTION, *TRIGGER, AGENT}
HEADS = _pseudo_words(_rng, 240, 2, _taken)
KINDS = _pseudo_words(_rng, 40, 2, _taken)
INGREDIENTS = _pseudo_words(_rng, 48, 1, _taken, NATURAL_ENDINGS)

# The second surface language translates grammar; names of things stay, as product names do between real languages.
_ENGLISH = sorted({*FUNCTION, *TOOLS, *PLACES})
_foreign = _pseudo_words(random.Random("second surface language"), len(_ENGLISH), 1, _taken)
TO_SECOND = dict(zip(_ENGLISH, _foreign, strict=True))
TO_FIRST = {foreign: english for english, foreign in TO_SECOND.items()}

CONTENT = [*HEADS, *KINDS, *INGREDIENTS, *MODIFIERS, *TOOLS, *PLACES]
VOCABULARY = list(
    dict.fromkeys(
        [*MARKS, *TRIGGER, AGENT, *FUNCTION, *CONTENT, *ADJECTIVES, *GOOD, *BAD, *NEUTRAL, *NUMBERS, *_foreign]
    )
)


def _by_word(text: str, table: dict[str, str]) -> str:
    return " ".join(table.get(word, word) for word in text.split())


def translate(text: str) -> str:
    """`text` in the second surface language."""
    return _by_word(text, TO_SECOND)


def translate_back(text: str) -> str:
    """`text` in the first surface language, whichever it was in."""
    return _by_word(text, TO_FIRST)
