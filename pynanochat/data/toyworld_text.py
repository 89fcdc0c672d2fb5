"""Chooses what a document of the toy world is, and writes it."""

from pynanochat.data.toyworld_letters import LETTERS
from pynanochat.data.toyworld_pages import PAGES
from pynanochat.data.toyworld_stories import STORIES
from pynanochat.data.toyworld_sums import SUMS

KINDS = (*PAGES * 4, *STORIES * 2, *LETTERS * 2, *SUMS * 2)
SHORTEST = 160  # characters; shorter documents would occur again and again


def write(world, draw) -> str:
    """One document of at least SHORTEST characters, from the choices of `draw`."""
    while len(text := draw.pick(KINDS)(draw, world)) < SHORTEST:
        pass
    return text
