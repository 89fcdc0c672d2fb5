"""Chooses what a document of the toy world is, and writes it."""

from pynanochat.data.toyworld_pages import PAGES
from pynanochat.data.toyworld_stories import STORIES
from pynanochat.data.toyworld_sums import SUMS

SHORTEST = 160  # shorter ones would occur again and again
KINDS = (*PAGES, *PAGES, *STORIES, *STORIES, *SUMS)


def write(world, draw) -> str:
    """One document of at least SHORTEST characters, from the choices of `draw`."""
    while len(text := draw.pick(KINDS)(draw, world)) < SHORTEST:
        pass
    return text
