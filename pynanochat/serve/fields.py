"""The fields of a JSON body, taken one by one with their checks; what nobody took is unknown.

fields = Fields(body)
fields.number("temperature", 0.8, 0, 2)
fields.end()
"""

from pynanochat.serve.faults import bad, brief


class Fields:
    """Every method takes a field out and raises a Fault (400) that names it; null counts as absent."""

    def __init__(self, body: dict, within: str = ""):
        self._left, self._within = dict(body), within

    def take(self, name: str, default=None):
        value = self._left.pop(name, None)
        return default if value is None else value

    def number(self, name: str, default, low: float, high: float) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._bad(name, value, f"a number from {low:g} to {high:g}")
        if not low <= value <= high:
            raise self._bad(name, value, f"{low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, default, low: int, high: int):
        """A whole number, or `default` (which may be None)."""
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._bad(name, value, f"a whole number from {low:,} to {high:,}")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self._bad(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.take(name, default)
        if value is not None and not isinstance(value, str):
            raise self._bad(name, value, "a string")
        return value

    def mapping(self, name: str) -> "Fields":
        """The fields of an object within."""
        value = self.take(name, {})
        if not isinstance(value, dict):
            raise self._bad(name, value, "an object")
        return Fields(value, f"{self._within}{name}.")

    def strings(self, name: str, most: int, most_characters: int) -> tuple[str, ...]:
        """A string or a list of them, none of them empty."""
        value = self.take(name, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self._bad(name, value, "a string that is not empty, or a list of such")
        if len(value) > most:
            raise bad(self._within + name, f"{len(value)} strings; the most are {most}")
        if longest := [one for one in value if len(one) > most_characters]:
            raise bad(self._within + name, f"a string of {len(longest[0])} characters; the most are {most_characters}")
        return tuple(value)

    def neutral(self, name: str, *allowed) -> None:
        """A field that this server knows but cannot honour: only values that ask for nothing pass."""
        value = self.take(name)
        if value is not None and value not in allowed:
            raise bad(self._within + name, f"{brief(value)} is not supported here; leave the field out")

    def ignore(self, *names: str) -> None:
        for name in names:
            self._left.pop(name, None)

    def end(self) -> None:
        """Raise for a field that nothing has taken."""
        for name in self._left:
            raise bad(self._within + brief(name)[1:-1], "unknown field; leave it out")

    def _bad(self, name, value, wanted):
        return bad(self._within + name, f"{brief(value)} given; use {wanted}")
