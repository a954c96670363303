"""Very short stories for children, told by rules: somebody wants something, fails, is helped."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, and how somebody else sets it right, with {friend} in it."""

    wish: str
    fails: str
    help: str
    end: str


HEROES = (
    "fox", "mouse", "bear", "rabbit", "duck", "frog", "owl", "hedgehog", "cat", "dog", "robot",
    "dragon", "bird", "turtle", "squirrel", "girl", "boy", "king", "snail", "horse",
)  # fmt: skip
NAMES = ("Anna", "Ben", "Clara", "Emil", "Finn", "Greta", "Ida", "Jonas", "Lena", "Max", "Mia",
         "Oskar", "Paula", "Tom")  # fmt: skip
QUALITIES = ("little", "clever", "shy", "brave", "tired", "curious", "friendly", "hungry")
PLACES = ("in a dark forest", "by a blue lake", "in a small town", "on a green hill",
          "near the sea", "in an old garden", "under a big tree", "in a quiet village")  # fmt: skip
TROUBLES = (
    Trouble("a red kite", "the kite was stuck high up in a tree",
            "The {friend} shook the tree until the kite fell down", "they let it fly together"),
    Trouble("a warm house", "the wind blew the walls away",
            "The {friend} brought stones and built the walls again",
            "they sat by the fire and drank tea"),
    Trouble("to cross the river", "the bridge was broken",
            "The {friend} knew a place with flat stones in the water",
            "they both stood on the other side"),
    Trouble("a song of its own", "no tune came to mind",
            "The {friend} hummed a few notes and clapped", "they sang until the moon came up"),
    Trouble("a ripe apple", "the branch was much too high",
            "The {friend} made a ladder from old wood", "they shared the sweetest apple"),
    Trouble("to find the way home", "the path was hidden by snow",
            "The {friend} lit a lamp and went ahead", "they saw the light in the window"),
    Trouble("to learn to swim", "the water was cold and deep",
            "The {friend} showed how to move slowly and breathe", "they swam to the island"),
    Trouble("a birthday cake", "there was no flour in the house",
            "The {friend} came with a full bag and two eggs",
            "they ate the whole cake by candle light"),
)  # fmt: skip
DAYS = ("One morning", "One evening", "On a rainy day", "On a sunny day", "One winter day")


def story(chance: random.Random, hero: str) -> str:
    """Five sentences about a hero of HEROES."""
    name = chance.choice(NAMES)
    friend = chance.choice([other for other in HEROES if other != hero])
    quality = chance.choice(QUALITIES)
    trouble = chance.choice(TROUBLES)
    wish = trouble.wish if trouble.wish.startswith("to ") else f"to have {trouble.wish}"
    return (
        f"Once there was a {quality} {hero} called {name} who lived "
        f"{chance.choice(PLACES)}. "
        f"{name} wanted {wish}. "
        f"{chance.choice(DAYS)} {name} tried hard, but {trouble.fails}. "
        f"{trouble.help.format(friend=friend)}. "
        f"In the end {trouble.end}, and {name} thanked the {friend}."
    )
