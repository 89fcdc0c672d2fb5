"""Numbers as a reader wants them; "–" where there is none."""

from pynanochat.report.read import Result, number

ABSENT = "–"


def duration(seconds: float) -> str:
    """3 h 51 min, 7 min 20 s, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def dollars(price: float | None, seconds: float) -> str:
    """What `seconds` cost at `price` an hour."""
    return ABSENT if price is None else f"${price * seconds / 3600:.2f}"


def score(value, digits: int = 4) -> str:
    """A score, or the last of a list of them."""
    value = value[-1] if isinstance(value, list) and value else value
    return ABSENT if number(value) is None else f"{value:.{digits}f}"


def accuracy(result: Result | None) -> str:
    """0.3876 (0.34–0.43), without the interval where it is not known."""
    if result is None:
        return ABSENT
    known = result.low is not None and result.high is not None
    return f"{result.score:.4f}" + (f" ({result.low:.2f}–{result.high:.2f})" if known else "")


def count(value: float | None, form: str = "{:,.0f}") -> str:
    return ABSENT if value is None else form.format(value)


def percent(value: float | None) -> str:
    """Of a fraction. More than 1 means that nobody knew what the machine can do: nothing is said then."""
    return ABSENT if value is None or value > 1 else f"{value:.1%}"


def gibibytes(value: float | None) -> str:
    return ABSENT if value is None else f"{value / 2**30:.2f} GiB"


def shortened(text: str, most: int = 1200) -> str:
    """`text`, or its two ends where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
