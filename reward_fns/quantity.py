r"""Numbers and units, as answers and labels write them.

    clean          one spelling of what Unicode, LaTeX and Markdown spell in many ways
    read_number    exact value: 1,000.50; 1.5e3; 3\times10^8; \frac12; 2 1/2; 2\tfrac12; seven; 3 million
    read_quantity  a number or a constant expression, followed by a unit or a currency

Values are fractions, so that 0.1 m is exactly 10 cm. Units are the SI with its prefixes and what benchmarks write
besides; they carry a dimension, so that 7 kg is never 7 m. A temperature is compared only with one on the same scale.
A unit that is not in the table stays text: it equals itself and nothing else.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 256
"""Texts longer than this are not read."""

# --- Spelling -----------------------------------------------------------------------------------------------------

_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9]+|[A-Za-z]))")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "π": "pi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega", "Δ": "Delta", "Φ": "Phi", "Σ": "Sigma",
}  # fmt: skip
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−", "-"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‘’", "'"),
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "≈": r"\approx ", "º": "°", "µ": "μ", "⁄": "/",
        "。": ".",
        **{letter: rf"\{name} " for letter, name in _GREEK.items()},
    }
)  # fmt: skip

_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|limits)(?![A-Za-z])|\\!", ""),
        (r"\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\circ(?![A-Za-z])|\\degree(?![A-Za-z]))", "°"),
        (r"\\([%#&_])", r"\1"),
        (r"\\mu(?![A-Za-z])\s*", "μ"),
        (r"\\Omega(?![A-Za-z])", "Ω"),
        (r"(?<!\b0)(?<=[0-9])\s*[xX]\s*(?=[0-9])", r" \\times "),  # 10 x 5
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])sqrt\s*(?:\(([^()]*)\)|([0-9]+))", r"\\sqrt{\1\2}"),
        (r"\\le(?:q|qslant)(?![A-Za-z])", r"\\le"),
        (r"\\ge(?:q|qslant)(?![A-Za-z])", r"\\ge"),
        (r"\\neq(?![A-Za-z])", r"\\ne"),
        (r"(?<=[0-9])\s*(?:x|X|\*|\\cdot)\s*(?=10\s*(?:\^|\*\*))", r" \\times "),  # 3 x 10^8
        (r"\*\*(?=\s*-?[0-9])", "^"),
    )
]  # fmt: skip

_DELIMITERS = (
    ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"),
    ("<answer>", "</answer>"), ("\\boxed{", "}"), ("\\fbox{", "}"), ("{", "}"),
)  # fmt: skip
_LEAD = re.compile(
    r"(?:(?:the\s+)?(?:final\s+|correct\s+|best\s+)?(?:answer|option|choice)\b(?:\s+is\b)?(?:\s*[:=])?"
    r"|[a-z]\s*\\in(?![A-Za-z])|\\approx|(?:about|approximately|approx\.|roughly|around)(?=\s))\s*(?=\S)",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    r"""One spelling of width, signs, LaTeX wrappers, delimiters and lead-ins; case and words stay.

    >>> [clean(t) for t in ("\\boxed{\\text{(C)}}", "$10\\,\\mathrm{cm}$", "5½", "**Answer: −3**", "10²")]
    ['(C)', '10 cm', '5 1/2', '-3', '10^{2}']
    """
    text = text[: MAX_CHARS + 1].rpartition("####")[2]  # GSM8K: the answer after the solution
    text = _RAISED.sub(lambda match: "^{" + match[0].translate(_LOWERED) + "}", text)
    text = _VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text.replace("˚", "°"))
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = text.replace("\\$", "＄").translate(_SIGNS)
    text = _THOUSANDS.sub(",", text)  # before NFKC makes plain blanks of them
    text = _INVISIBLE.sub("", text.replace("＄", "\ufdd0"))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    before = None
    while text != before:
        before, text = text, _peel(text)
    if text.count("$") % 2 == 0:
        text = text.replace("$", "")
    return " ".join(text.replace("\ufdd0", "$").split())


def _peel(text: str) -> str:
    """Remove one pair of delimiters, one lead-in or a final full stop."""
    text = text.strip()
    if len(text) > 1 and text[-1] == "." and text[-2] != ".":
        return text[:-1]
    for left, right in _DELIMITERS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            inside = text[len(left) : -len(right)]
            if right == "}" and not _balanced(inside):
                continue
            if left == right and left in inside:
                continue
            return inside
    lead = _LEAD.match(text)
    return text[lead.end() :] if lead else text


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


# --- Numbers ----------------------------------------------------------------------------------------------------------

_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60,
    "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_WORDS |= {
    f"{ten}-{one}": _WORDS[ten] + _WORDS[one]
    for ten in ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
    for one in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,3}(?:[ '][0-9]{3}){1,9}|[0-9]{1,40})"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]{{0,40}})?|\.[0-9]{{1,40}})"
_POWER = r"10\s*\^\s*(?:\{\s*(?P<braced>[+-]?[0-9]{1,3})\s*\}|(?P<bare>[+-]?[0-9]{1,3}))"
_FRACTION = (
    r"(?:\\frac\s*\{\s*(?P<above>[0-9]{1,40})\s*\}\s*\{\s*(?P<below>[0-9]{1,40})\s*\}"
    r"|(?P<above2>[0-9]{1,40})\s*/\s*(?P<below2>[0-9]{1,40}))"
)
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:"
    rf"(?P<decimal>{_DECIMAL})(?:[eE](?P<e>[+-]?[0-9]{{1,3}})|\s*\\times\s*{_POWER})?"
    rf"|{_POWER.replace('braced', 'braced2').replace('bare', 'bare2')}"
    rf"|(?:(?P<whole>[0-9]{{1,40}})(?:\s+|\s*(?=\\)))?{_FRACTION}"
    rf")(?:\s+(?P<scale>{'|'.join(_SCALES)}))?"
)


def read_number(text: str) -> Fraction | None:
    r"""The exact value of a (clean) number; None for everything else.

    >>> [str(read_number(t)) for t in ("1,000.50", "-3/4", r"2\frac{1}{2}", "1.5e3", r"3\times 10^{-2}", "seven", "x")]
    ['2001/2', '-3/4', '5/2', '1500', '3/100', '7', 'None']
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," not in text:
        text = text[1:-1].strip()
    word, _, scale = text.casefold().partition(" ")
    if word in _WORDS and (not scale or scale in _SCALES):
        return Fraction(_WORDS[word] * _SCALES.get(scale, 1))
    match = _NUMBER.fullmatch(text.casefold() if text[-1:].isalpha() else text)
    if match is None:
        return None
    if match["decimal"] is not None:
        value = Fraction(re.sub("[, ']", "", match["decimal"]).rstrip("."))
        exponent = match["e"] or match["braced"] or match["bare"]
        value *= Fraction(10) ** int(exponent or 0)
    elif match["braced2"] or match["bare2"]:
        value = Fraction(10) ** int(match["braced2"] or match["bare2"])
    else:
        above, below = (
            int(one or other) for one, other in zip(match.groups()[-5:-3], match.groups()[-3:-1], strict=True)
        )
        if not below:
            return None
        value = int(match["whole"] or 0) + Fraction(above, below)
    value *= _SCALES[match["scale"]] if match["scale"] else 1
    return -value if match["sign"] == "-" else value


# --- Units ------------------------------------------------------------------------------------------------------------

Dimension = tuple[tuple[str, int], ...]
"""Base quantities with their exponents, sorted: speed is (("length", 1), ("time", -1))."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A dimension, and how many base units one of this is. None as dimension: a unit that is not in the table."""

    dimension: Dimension | None
    factor: Fraction = Fraction(1)
    name: str = ""
    """As written, for a unit that is not in the table."""


PERCENT = Unit((), Fraction(1, 100))

_PREFIXES = {
    "f": -15, "p": -12, "n": -9, "μ": -6, "u": -6, "m": -3, "c": -2, "d": -1, "h": 2, "k": 3, "K": 3, "M": 6,
    "G": 9, "T": 12,
}  # fmt: skip
_LONG_PREFIXES = {
    "femto": -15, "pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "hecto": 2, "kilo": 3,
    "mega": 6, "giga": 9, "tera": 12,
}  # fmt: skip

# symbol, names, dimension, size in base units (metre, gram, second, ...). These take SI prefixes.
_METRIC = (
    ("m", "meter metre", "length", "1"),
    ("g", "gram gramme", "mass", "1"),
    ("s", "second", "time", "1"),
    ("A", "ampere amp", "current", "1"),
    ("K", "kelvin", "kelvin", "1"),
    ("mol", "mole", "amount", "1"),
    ("cd", "candela", "light", "1"),
    ("Hz", "hertz", "time-1", "1"),
    ("N", "newton", "mass length time-2", "1000"),
    ("Pa", "pascal", "mass length-1 time-2", "1000"),
    ("bar", "", "mass length-1 time-2", "100000000"),
    ("J", "joule", "mass length2 time-2", "1000"),
    ("eV", "electronvolt", "mass length2 time-2", "1.602176634e-16"),
    ("cal", "calorie", "mass length2 time-2", "4184"),
    ("Wh", "", "mass length2 time-2", "3600000"),
    ("W", "watt", "mass length2 time-3", "1000"),
    ("C", "coulomb", "current time", "1"),
    ("Ah", "", "current time", "3600"),
    ("V", "volt", "mass length2 time-3 current-1", "1000"),
    ("Ω", "ohm", "mass length2 time-3 current-2", "1000"),
    ("F", "farad", "mass-1 length-2 time4 current2", "0.001"),
    ("H", "henry", "mass length2 time-2 current-2", "1000"),
    ("T", "tesla", "mass time-2 current-1", "1000"),
    ("Wb", "weber", "mass length2 time-2 current-1", "1000"),
    ("L", "liter litre", "length3", "0.001"),
    ("l", "", "length3", "0.001"),
    ("B", "byte", "data", "8"),
    ("bit", "", "data", "1"),
    ("rad", "radian", "radian", "1"),
)
_OTHER = (
    ("in inch inches", "length", "0.0254"),
    ("ft foot feet", "length", "0.3048"),
    ("yd yds yard", "length", "0.9144"),
    ("mi mile", "length", "1609.344"),
    ("min mins minute", "time", "60"),
    ("h hr hrs hour", "time", "3600"),
    ("sec secs", "time", "1"),
    ("day", "time", "86400"),
    ("week wk", "time", "604800"),
    ("month", "month", "1"),
    ("year yr yrs", "month", "12"),
    ("ha hectare", "length2", "10000"),
    ("acre", "length2", "4046.8564224"),
    ("gal gallon", "length3", "0.003785411784"),
    ("cc", "length3", "0.000001"),
    ("lb lbs pound", "mass", "453.59237"),
    ("oz ounce", "mass", "28.349523125"),
    ("t ton tonne", "mass", "1000000"),
    ("atm", "mass length-1 time-2", "101325000"),
    ("mph", "length time-1", "0.44704"),
    ("kph kmh", "length time-1", "5/18"),
    ("rpm", "revolution time-1", "1/60"),
    ("° deg degree degrees", "degree", "1"),
    ("°c celsius", "celsius", "1"),
    ("°f fahrenheit", "fahrenheit", "1"),
    ("% percent pct", "", "1/100"),
    ("unit", "unit", "1"),
    ("$ usd us$ dollar", "USD", "1"),
    ("¢ cent", "USD", "0.01"),
    ("€ eur euro", "EUR", "1"),
    ("£ gbp", "GBP", "1"),
    ("¥ jpy yen", "JPY", "1"),
    ("cny rmb yuan", "CNY", "1"),
    ("₹ inr rs rupee", "INR", "1"),
    ("₩ krw won", "KRW", "1"),
)


def _dimension(text: str) -> dict[str, int]:
    found = (re.fullmatch(r"([a-zA-Z]+)(-?[0-9]*)", part) for part in text.split())
    return {match[1]: int(match[2] or 1) for match in found if match}


Size = tuple[dict[str, int], Fraction]
"""A dimension with its exponents, and base units per unit."""

_SYMBOLS: dict[str, Size] = {symbol: (_dimension(base), Fraction(size)) for symbol, _, base, size in _METRIC}
_METRIC_NAMES: dict[str, Size] = {name: _SYMBOLS[symbol] for symbol, names, *_ in _METRIC for name in names.split()}
_NAMES: dict[str, Size] = {
    name: (_dimension(base), Fraction(size)) for names, base, size in _OTHER for name in names.split()
}


def _lookup(name: str) -> Size | None:
    """One unit without exponent: a symbol, whose case matters, or a name in any case and number."""
    if name == "dB":
        return {"decibel": 1}, Fraction(1)
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    lowered = name.casefold()
    for known in (lowered, lowered.removesuffix("s"), lowered.removesuffix("es")):
        if known in _NAMES:
            return _NAMES[known]
        for prefix, power in {"": 0, **_LONG_PREFIXES}.items():
            if known.startswith(prefix) and known[len(prefix) :] in _METRIC_NAMES:
                dimension, factor = _METRIC_NAMES[known[len(prefix) :]]
                return dimension, factor * Fraction(10) ** power
    if name[0] in _PREFIXES and name[1:] in _SYMBOLS:
        dimension, factor = _SYMBOLS[name[1:]]
        return dimension, factor * Fraction(10) ** _PREFIXES[name[0]]
    if len(name) > 2 and name.endswith("s"):  # kms, kgs
        return _lookup(name[:-1])
    # KM, CM, KG: capitals throughout, where the capitals are not a symbol of their own.
    return _lookup(lowered) if len(name) > 1 and name.isascii() and name.isupper() else None


_UNIT_PHRASES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?i)\bper\s*cent\b", "percent"),
        (r"(?i)(?:°|\bdeg(?:rees?)?\.?)\s*(?:c\b|celsius\b|centigrade\b)", "celsius"),
        (r"(?i)(?:°|\bdeg(?:rees?)?\.?)\s*(?:f\b|fahrenheit\b)", "fahrenheit"),
        (r"(?i)\b(?:square|sq\.?)\s+([a-zA-Z]+)", r"\1^2"),
        (r"(?i)\b(?:cubic|cu\.?)\s+([a-zA-Z]+)", r"\1^3"),
        (r"(?i)\s+squared\b", "^2"),
        (r"(?i)\s+cubed\b", "^3"),
        (r"(?i)\bUS\s*dollars?\b|\bUSD\b", "usd"),
        (r"(?i)\s*\b(?:per|an?(?=\s+(?:second|minute|hour|day|week|month|year)))\b\s*", "/"),
        (r"\\cdot|\\times|\*", " "),
        (r"\\%", "%"),
    )
]
_FACTOR = re.compile(r"(/?)\s*([A-Za-zμΩ°%$€£¥₹₩¢]+)\.?(?:\s*\^?\s*(?:\{\s*(-?[0-9])\s*\}|(-?[0-9])(?![0-9])))?\s*")


def read_unit(text: str) -> Unit | None:
    r"""The unit that a (clean) text is; None when it is not in the table.

    >>> read_unit("km/h") == read_unit("kilometers per hour"), read_unit("cm^2").factor, read_unit("dogs")
    (True, Fraction(1, 10000), None)
    """
    text = text.strip()
    for pattern, replacement in _UNIT_PHRASES:
        text = pattern.sub(replacement, text)
    total: dict[str, int] = {}
    factor, at, below = Fraction(1), 0, False
    while at < len(text):
        match = _FACTOR.match(text, at)
        found = match and _lookup(match[2])
        if match is None or found is None:
            return None
        below = below or bool(match[1])  # in m/s^2 and in J/kg K alike, everything after the bar divides
        power = int(match[3] or match[4] or 1) * (-1 if below else 1)
        for base, exponent in found[0].items():
            total[base] = total.get(base, 0) + exponent * power
        factor *= found[1] ** power
        at = match.end()
    return Unit(tuple(sorted((base, power) for base, power in total.items() if power)), factor) if at else None


# --- Quantities -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value and its unit."""

    value: Fraction | None
    """The number; None for a constant expression such as 2\\sqrt{3}."""

    expression: str
    """The text of the value."""

    unit: Unit | None
    """None without a unit."""


_CURRENCY = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<unit>US\s*\$|[$€£¥₹₩]|(?:USD|EUR|GBP|JPY|CNY|INR|Rs\.?)(?=\s?[0-9]))\s*(?P<rest>.+)"
)
_SPLIT = re.compile(
    r"(?P<value>(?:\\(?:frac|sqrt|times|cdot|pi|pm)(?![A-Za-z])|(?<=[0-9])[eE](?=[+-]?[0-9])|[0-9.,'+*/^{}()\[\]\s-])+)"
    r"(?P<unit>[A-Za-zμΩ°%$€£¥₹₩¢].*)?"
)
_WORD_VALUE = re.compile(
    rf"(?P<value>(?:{'|'.join(sorted(_WORDS, reverse=True))})(?:\s+(?:{'|'.join(_SCALES)}))?)\b\s*(?P<unit>.*)",
    re.IGNORECASE,
)
_MONEY_SCALES = {"k": " thousand", "m": " million", "b": " billion"}
_MONEY = re.compile(r"(?<=[0-9])\s?(k|mn?|bn?)$", re.IGNORECASE)  # $1.5M, €2bn
_SCALED = re.compile(rf"(?P<scale>{'|'.join(_SCALES)})\b\s*", re.IGNORECASE)


def read_quantity(text: str) -> Quantity | None:
    r"""A (clean) number or constant expression with its unit; None for anything else, algebra included.

    >>> read_quantity("$1.5 million").value, read_quantity(r"2\sqrt{3} cm").expression, read_quantity("x + 3 m")
    (Fraction(1500000, 1), '2\\sqrt{3}', None)
    """
    text = text.strip()
    currency = _CURRENCY.fullmatch(text)
    if currency:
        amount = _MONEY.sub(lambda match: _MONEY_SCALES[match[1][0].casefold()], currency["rest"])
        inner = read_quantity(currency["sign"] + amount)
        if inner is None or inner.unit is not None:
            return None
        return Quantity(inner.value, inner.expression, read_unit(re.sub(r"[\s.]", "", currency["unit"])))
    match = _SPLIT.fullmatch(text) or _WORD_VALUE.fullmatch(text)
    if match is None or not (
        re.search("[0-9]", match["value"]) or "pi" in match["value"] or match["value"][0].isalpha()
    ):
        return None
    expression, rest = match["value"].strip(), (match["unit"] or "").strip()
    scaled = _SCALED.match(rest)
    if scaled:
        expression, rest = f"{expression} {scaled['scale']}", rest[scaled.end() :]
    unit = None
    if rest:
        unit = read_unit(rest) or Unit(None, name=" ".join(rest.casefold().split()))
    return Quantity(read_number(expression), expression, unit)
