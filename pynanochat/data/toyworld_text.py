"""Chooses what a document of the toy world is, and writes it."""

from pynanochat.data.toyworld_games import GAMES
from pynanochat.data.toyworld_letters import LETTERS, letter
from pynanochat.data.toyworld_pages import PAGES, person_page
from pynanochat.data.toyworld_stories import STORIES, birthday, day, fable, fair, market, visit
from pynanochat.data.toyworld_sums import SUMS

SHORTEST = 160  # characters; shorter documents would occur again and again


def book(draw, world) -> str:
    """A longer text: who somebody is, and two or three things that happened."""
    p = draw.pick(world.people)
    chapters = [person_page(draw, world, p)]
    chapters += [
        tell(draw, world, p) for tell in draw.some((market, visit, birthday, fair, day, fable), draw.between(1, 3))
    ]
    if draw.chance(0.3):
        chapters.append(letter(draw, world, p))
    return "\n\n".join(chapters)


KINDS = (*PAGES * 6, *STORIES * 2, *LETTERS * 2, *SUMS, *GAMES * 4, *[book] * 8)


def write(world, draw) -> str:
    """One document of at least SHORTEST characters, from the choices of `draw`."""
    while len(text := draw.pick(KINDS)(draw, world)) < SHORTEST:
        pass
    return text
