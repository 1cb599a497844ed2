"""Numbers as people read them. A privacy bound is rounded up, never down."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal

NO_BREAK = "\u00a0"
MINUS = "\u2212"
TIMES = "\u00d7"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NORMAL_95 = 1.96


def round_up(value: float) -> str:
    """Returns `value` >= 0 with three significant digits, not less than it is.

    >>> round_up(7.9923), round_up(0.12301), round_up(0.0)
    ('8.00', '0.124', '0')
    """
    if value == 0 or math.isinf(value):
        return "infinite" if value else "0"
    exact = Decimal(value)
    return f"{exact.quantize(Decimal(1).scaleb(min(exact.adjusted() - 2, 0)), rounding=ROUND_CEILING):f}"


def power_of_ten(value: float) -> str:
    """Returns a small positive number in scientific notation.

    >>> power_of_ten(1e-5), power_of_ten(2e-7).replace(NO_BREAK, " "), power_of_ten(0.01)
    ('10⁻⁵', '2 × 10⁻⁷', '0.01')
    """
    if value >= 1e-3:
        return f"{value:g}"
    digits, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    number = float(digits)
    return power if number == 1 else f"{number:g} {TIMES} {power}".replace(" ", NO_BREAK)


def one_in(probability: float) -> str:
    """Returns a small probability as a chance.

    >>> one_in(1e-5).replace(NO_BREAK, " ")
    '1 in 100,000'
    """
    return f"1 in {math.floor(1 / probability + 1e-6):,}".replace(" ", NO_BREAK)


def percent(share: float, *, up: bool = False) -> str:
    """Returns a share with two significant digits, or rounded up to whole per cent.

    >>> [percent(share).replace(NO_BREAK, " ") for share in (0.01, 0.0612, 0.996)]
    ['1 %', '6.1 %', '100 %']
    >>> percent(0.2011, up=True).replace(NO_BREAK, " ")
    '21 %'
    """
    if up:
        return f"{math.ceil(share * 100 - 1e-9)}{NO_BREAK}%"
    number = f"{share * 100:.0f}" if share >= 0.0995 else f"{share * 100:.2g}"
    return f"{number}{NO_BREAK}%"


def figure(value: float) -> str:
    """Returns a metric with three decimals.

    >>> figure(0.98387)
    '0.984'
    """
    return f"{value:.3f}".replace("-", MINUS)


def count(value: float) -> str:
    """Returns a count, which noise can make negative.

    >>> count(12345), count(-20)
    ('12,345', '−20')
    """
    return f"{round(value):,}".replace("-", MINUS)


def margin(stddev: float) -> str:
    """Returns what holds the exact count 95 % of the time, or nothing without noise.

    >>> margin(10.0).replace(NO_BREAK, " "), margin(0.0)
    ('± 20', '')
    """
    return f"±{NO_BREAK}{math.ceil(_NORMAL_95 * stddev):,}" if stddev else ""


def duration(seconds: float | None) -> str:
    """Returns a duration.

    >>> [duration(value).replace(NO_BREAK, " ") for value in (0.04, 10.78, 125.2, None)]
    ['< 0.1 s', '10.8 s', '2 min 5 s', 'unknown']
    """
    if seconds is None:
        return "unknown"
    if seconds < 0.1:
        return "< 0.1 s".replace(" ", NO_BREAK)
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s".replace(" ", NO_BREAK)


def plural(number: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> plural(1, "round"), plural(60, "round")
    ('1 round', '60 rounds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(items: Iterable[object], *, most: int = 12) -> str:
    """Returns items separated by commas, cut after `most`.

    >>> listing([1, 2, 3], most=2)
    '1, 2 and 1 more'
    """
    shown = [str(item) for item in items]
    rest = len(shown) - most
    return ", ".join(shown) if rest <= 0 else f"{', '.join(shown[:most])} and {rest} more"
