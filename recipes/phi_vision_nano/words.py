"""What people ask about a drawn scene, in several ways each, and the words of the answers."""

from __future__ import annotations

import random
from collections.abc import Sequence

UNKNOWN = "I only know drawn scenes."
NOT_THERE = "That is not in the picture."
SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "Answer briefly.",
    "Answer in one sentence.",
    "Be concise and friendly.",
    "You answer questions about pictures.",
    "You are an expert in reading charts. Answer only what is asked.",
    "Always answer in English.",
    "You are Phi, a small model.",
)
#: kind of scene -> questions about what its pictures never have
MISFITS = {
    "shapes": ("table", "code", "how many bars", "highest", "lowest", "value of bar"),
    "a number": ("table", "code", "how many bars", "highest", "lowest", "value of bar"),
    "bars": ("where", "left or right", "above or below", "what is at", "shape of"),
    "several": ("table", "code", "how many bars", "highest", "lowest", "value of bar"),
    "frames": ("table", "code", "how many bars", "highest", "lowest", "value of bar"),
}
CODE = (
    "```python\nimport matplotlib.pyplot as plt\n\nplt.bar([{bars}], [{values}])\nplt.show()\n```"
)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "shape of": (
        "What shape is the {colour} object?",
        "Which shape is {colour}?",
        "What is the {colour} thing?",
        "What shape does the {colour} one have?",
    ),
    "colour of": (
        "What colour is the {shape}?",
        "What color is the {shape}?",
        "Which colour does the {shape} have?",
        "Tell me the color of the {shape}.",
    ),
    "where": (
        "Where is the {name}?",
        "Where is the {name} in the picture?",
        "In which part of the image is the {name}?",
        "What is the position of the {name}?",
    ),
    "what is at": (
        "What is at the {place}?",
        "What is in the {place} of the picture?",
        "Which object is at the {place}?",
        "What do you see at the {place}?",
    ),
    "left or right": (
        "Is the {name} left or right of the {other}?",
        "Is the {name} to the left or to the right of the {other}?",
        "Left or right of the {other}: where is the {name}?",
    ),
    "above or below": (
        "Is the {name} above or below the {other}?",
        "Above or below the {other}: where is the {name}?",
    ),
    "how many": (
        "How many objects are there?",
        "How many shapes are there?",
        "How many shapes are in the picture?",
        "How many things do you see?",
        "Count the objects.",
    ),
    "how many of colour": (
        "How many {colour} objects are there?",
        "How many {colour} shapes are in the picture?",
        "How many objects are {colour}?",
        "Count the {colour} shapes.",
    ),
    "how many of shape": (
        "How many {shape}s are there?",
        "How many {shape}s are in the picture?",
        "How many {shape}s do you see?",
        "Count the {shape}s.",
    ),
    "is there": (
        "Is there a {name}?",
        "Is there a {name} in the picture?",
        "Do you see a {name}?",
        "Does the image show a {name}?",
    ),
    "describe": (
        "Describe this picture.",
        "Describe this image.",
        "Describe the picture.",
        "Describe what you see.",
        "What do you see?",
        "What is in this picture?",
        "What does the image show?",
        "Tell me what is in the picture.",
    ),
    "number": (
        "What number is this?",
        "Which number is in the picture?",
        "What is the number?",
        "Which number do you see?",
    ),
    "read": (
        "Read the text in this picture.",
        "Read the text.",
        "What is written here?",
        "What does it say?",
        "Read what is written in the image.",
    ),
    "colour of number": (
        "What colour is the number?",
        "What color is the number?",
        "Which colour does the text have?",
    ),
    "how many digits": (
        "How many digits are there?",
        "How many digits does the number have?",
    ),
    "how many bars": (
        "How many bars are there?",
        "How many bars does the chart have?",
        "Count the bars.",
    ),
    "highest": (
        "Which bar is the highest?",
        "Which bar is highest?",
        "Which bar has the largest value?",
        "What is the tallest bar?",
    ),
    "lowest": (
        "Which bar is the lowest?",
        "Which bar is lowest?",
        "Which bar has the smallest value?",
        "What is the shortest bar?",
    ),
    "value of bar": (
        "What is the value of {bar}?",
        "How high is {bar}?",
        "Which value does {bar} have?",
    ),
    "colour of bar": (
        "What colour is bar {letter}?",
        "What color is bar {letter}?",
        "Which colour does bar {letter} have?",
    ),
    "table": (
        "Turn this chart into a Markdown table.",
        "Turn this chart into a table.",
        "Make a table of this chart.",
        "Write the values of the chart as a Markdown table.",
    ),
    "code": (
        "Write Python code that draws this chart.",
        "Write code for this chart.",
        "Write Python code for this chart.",
    ),
    "which shows": (
        "Which image shows a {name}?",
        "Which picture shows the {name}?",
        "In which image is a {name}?",
        "Which of the images has a {name}?",
    ),
    "what is in": (
        "What is in image {number}?",
        "What does image {number} show?",
        "What do you see in picture {number}?",
    ),
    "how many in": (
        "How many objects are in image {number}?",
        "How many shapes does image {number} show?",
    ),
    "most": (
        "Which image has the most objects?",
        "Which picture shows the most shapes?",
    ),
    "compare": (
        "Compare these two images.",
        "Compare these images.",
        "Compare the pictures.",
        "What is the difference between these images?",
        "Describe these images.",
    ),
    "how many images": (
        "How many images are there?",
        "How many pictures do you see?",
    ),
    "what moved": (
        "What moved?",
        "What moves?",
        "What moved between the frames?",
        "Which object moves?",
    ),
    "which way": (
        "In which direction did it move?",
        "Which way does it move?",
        "In which direction does it move?",
    ),
    "which way of": (
        "In which direction does the {name} move?",
        "Which way did the {name} move?",
    ),
    "what happens": (
        "What happens in these frames?",
        "What happens?",
        "Describe what happens in these frames.",
        "Summarize the video.",
        "What happens in this video?",
    ),
    "other": (
        "Who is the president of France?",
        "What is the capital of Italy?",
        "Write a poem about the sea.",
        "Write two sentences about the sea.",
        "Translate this into German: The cat is on the table.",
        "Translate into French: Good morning.",
        "What is 17 times 23?",
        "What is 2 plus 2?",
        "Who painted this picture?",
        "When was this photo taken?",
        "How old is this person?",
        "What is the name of this person?",
        "Is the person happy?",
        "What breed is this dog?",
        "What is the dog doing?",
        "Is there a cat in the picture?",
        "How many people are there?",
        "What is the weather like?",
        "Where was this picture taken?",
        "Which city is this?",
        "What brand is the car?",
        "What kind of plant is this?",
        "What is the meaning of life?",
        "Tell me a joke.",
        "Who are you?",
        "What can you do?",
        "Hello!",
        "Good morning",
        "Summarise in one sentence: A crow was thirsty and found a jug.",
        "Complete this sentence: The best thing about rain is",
        "How do I cook rice?",
        "What time is it?",
        "Which language is spoken in Brazil?",
        "Explain how a motor works.",
        "Why is the sky blue?",
        "Write a story about a dragon.",
        "Give me a recipe for soup.",
        "Who won the world cup?",
        "What does this sign mean?",
        "What is the total of this receipt?",
        "What is the price of the coffee?",
        "Which company is this logo of?",
        "Is this food healthy?",
        "What kind of bird is this?",
        "What are they wearing?",
        "Sing a song.",
        "How far is the moon?",
        "What is the largest ocean?",
    ),
}


def question(chance: random.Random, template: str, **names: str) -> str:
    """One of the ways to ask, now and then without capital or mark as people type."""
    asked = chance.choice(QUESTIONS[template]).format(**names)
    if chance.random() < 0.15:
        asked = asked[0].lower() + asked[1:]
    if chance.random() < 0.15:
        asked = asked.rstrip("?.")
    return asked


def any_question(chance: random.Random) -> str:
    """Whatever somebody may ask, about things that may or may not be there."""
    template = chance.choice([*QUESTIONS, "describe", "describe", "read", "other"])
    return _made_up(chance, template)


def misfit(chance: random.Random, kind: str) -> str | None:
    """What a picture in that kind of scene never has; None where anything may be there."""
    return _made_up(chance, chance.choice(MISFITS[kind])) if kind in MISFITS else None


def system_prompt(chance: random.Random) -> str:
    """One or two sentences that change nothing."""
    return " ".join(chance.sample(SYSTEM, chance.choice((1, 1, 2))))


def _made_up(chance: random.Random, template: str) -> str:
    names = {
        "colour": chance.choice(("red", "blue", "green", "black")),
        "shape": chance.choice(("circle", "square", "star")),
        "name": chance.choice(("red circle", "blue square", "green star", "black cross")),
        "other": chance.choice(("yellow triangle", "purple diamond")),
        "place": chance.choice(("top left", "centre", "bottom")),
        "bar": chance.choice(("bar A", "bar B", "the red bar")),
        "letter": chance.choice("ABC"),
        "number": "1",
    }
    return question(chance, template, **names)


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def sentence(names: Sequence[str], start: bool = True) -> str:
    """A red circle and an orange star."""
    told = listed([f"an {name}" if name[0] in "aeiou" else f"a {name}" for name in names])
    return f"{told[0].upper() if start else told[0]}{told[1:]}."
