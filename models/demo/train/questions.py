"""Questions and answers about scenes and clips, in the only sentences the model ever learns.

Each kind of question has one function. It may find that the scene gives nothing to ask and return
None; the caller then draws another kind. The order of random draws is part of the data.
"""
from __future__ import annotations

import random
from collections.abc import Callable

from classes import PICTOGRAMS
from scenes import COLOR_NAMES, COLORS, NAMES, SHAPES, Item, Scene, with_article

Asked = tuple[str, str] | None
Triple = tuple[str, str, str]

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
MAX_TRIES = 60
CELLS = ["in the top left", "at the top", "in the top right", "on the left", "in the center",
         "on the right", "in the bottom left", "at the bottom", "in the bottom right"]
SIDES = [("to the left of", -1, 0), ("to the right of", 1, 0), ("above", 0, -1), ("below", 0, 1)]
IRREGULAR = {
    "mouse": "mice", "fish": "fish", "sheep": "sheep", "deer": "deer", "wolf": "wolves",
    "squid": "squid", "shrimp": "shrimp", "leaf": "leaves", "dice": "dice",
    "scissors": "scissors", "glasses": "glasses", "jeans": "jeans", "fries": "fries",
    "pancakes": "pancakes", "grapes": "grapes", "cherries": "cherries", "bacon": "bacon",
    "broccoli": "broccoli", "strawberry": "strawberries", "candy": "candies",
    "trophy": "trophies", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes",
    "butterfly": "butterflies"}
_NUMBER = {name: i for i, (name, _) in enumerate(PICTOGRAMS)}
CATEGORIES = {
    "animal": range(_NUMBER["dog"], _NUMBER["squirrel"] + 1),
    "food item": range(_NUMBER["apple"], _NUMBER["wine"] + 1),
    "vehicle": range(_NUMBER["car"], _NUMBER["ship"] + 1)}


def plural(noun: str) -> str:
    return IRREGULAR.get(noun) or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def enumerate_in_words(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def yes_no(truth: object) -> str:
    return "Yes" if truth else "No"


class Still:
    """A scene, indexed for asking."""

    def __init__(self, scene: Scene):
        self.items, self.grid = scene.items, scene.grid
        self.background, self.background_color = scene.background, scene.color
        self.named: dict[tuple[str, str], list[Item]] = {}
        for item in scene.items:
            self.named.setdefault((item.kind, item.name), []).append(item)
        self.pictograms = [name for kind, name in self.named if kind == "pictogram"]
        self.unique = [same[0] for (kind, _), same in self.named.items()
                       if len(same) == 1 and kind != "text"]
        self.texts = [item for item in scene.items if item.kind == "text"]
        self.shapes = [item for item in scene.items if item.kind == "shape"]

    def count(self, kind: str, name: str) -> int:
        return len(self.named.get((kind, name), []))


def ask_exist(s: Still, rng: random.Random) -> Asked:
    if rng.random() < .5 and s.pictograms:
        thing, answer = rng.choice(s.pictograms), "Yes"
    elif rng.random() < .35 and s.shapes:
        item, color = rng.choice(s.shapes), rng.randrange(len(COLORS))
        if rng.random() < .5:
            color = item.color
        any_shape = rng.random() >= .7
        thing = COLOR_NAMES[color] + " " + ("shape" if any_shape else item.name)
        answer = yes_no(any(other.color == color and (any_shape or other.name == item.name)
                            for other in s.shapes))
    elif rng.random() < .3:
        thing = rng.choice(SHAPES)
        answer = yes_no(s.count("shape", thing))
    else:
        thing = NAMES[rng.randrange(len(NAMES))]
        answer = yes_no(thing in s.pictograms)
    form = rng.choice(["Is there {} in the image?", "Is there {} in this picture?",
                       "Can you see {}?", "Does the image contain {}?"])
    return form.format(with_article(thing)), answer


def ask_count(s: Still, rng: random.Random) -> Asked:
    if s.pictograms and rng.random() < .8:
        if rng.random() < .6:
            thing = rng.choice(s.pictograms)
        else:
            thing = max(s.pictograms, key=lambda name: s.count("pictogram", name))
        number = s.count("pictogram", thing)
    elif s.shapes and rng.random() < .7:
        thing = rng.choice(s.shapes).name
        number = s.count("shape", thing)
    else:
        thing = NAMES[rng.randrange(len(NAMES))]
        number = s.count("pictogram", thing)
    form = rng.choice(["How many {} are there?", "How many {} are in the image?", "Count the {}."])
    return form.format(plural(thing)), str(number)


def ask_cell(s: Still, rng: random.Random) -> Asked:
    cell = rng.choice(s.items).cell if rng.random() < .85 else rng.randrange(9)
    item = s.grid[cell]
    form = rng.choice(["What is {}?", "What is {} of the image?", "What do you see {}?"])
    return form.format(CELLS[cell]), capital(item.say) if item else "Nothing"


def ask_where(s: Still, rng: random.Random) -> Asked:
    if not s.unique:
        return None
    item = rng.choice(s.unique)
    form = rng.choice(["Where is the {}?", "Where is the {} in the image?",
                       "In which part of the image is the {}?"])
    return form.format(item.name), capital(CELLS[item.cell])


def ask_relative(s: Still, rng: random.Random) -> Asked:
    if not s.unique:
        return None
    item = rng.choice(s.unique)
    side, dx, dy = rng.choice(SIDES)
    row, column = divmod(item.cell, 3)
    if not (0 <= column + dx < 3 and 0 <= row + dy < 3):
        return None
    other = s.grid[(row + dy) * 3 + column + dx]
    if other is None and rng.random() < .75:
        return None         # else most answers would be "Nothing"
    form = rng.choice(["What is directly {} the {}?", "What is {} the {}?"])
    return form.format(side, item.name), capital(other.say) if other else "Nothing"


def ask_color(s: Still, rng: random.Random) -> Asked:
    if not s.shapes:
        return None
    item = rng.choice(s.shapes)
    if s.count("shape", item.name) != 1:
        return None
    form = rng.choice(["What color is the {}?", "What is the color of the {}?"])
    return form.format(item.name), capital(COLOR_NAMES[item.color])


def ask_shape(s: Still, rng: random.Random) -> Asked:
    if not s.shapes:
        return None
    item = rng.choice(s.shapes)
    if len(s.shapes) == 1 and rng.random() < .6:
        question = rng.choice(["What shape is in the image?", "What shape is shown?",
                               "What shape do you see?"])
    elif sum(other.color == item.color for other in s.shapes) == 1:
        question = f"What shape is {COLOR_NAMES[item.color]}?"
    else:
        return None
    return question, capital(with_article(item.name))


def ask_text(s: Still, rng: random.Random) -> Asked:
    if not s.texts:
        return None
    item = rng.choice(s.texts)
    if sum(other.is_number == item.is_number for other in s.texts) != 1:
        return None
    if item.is_number:
        forms = ["What number is written in the image?", "What number is shown?",
                 "Which number do you see?"]
    else:
        forms = ["What word is written in the image?", "What does the text say?",
                 "Read the word in the image."]
    return rng.choice(forms), item.text


def ask_caption(s: Still, rng: random.Random) -> Asked:
    question = rng.choice(["Describe the image.", "Describe this image in detail.",
                           "What is in the image?", "What do you see?"])
    parts = [item.say + " " + CELLS[item.cell] for item in s.items]
    return question, capital(enumerate_in_words(parts))


def ask_background(s: Still, rng: random.Random) -> Asked:
    if s.background != "solid":
        return None
    question = rng.choice(["What color is the background?", "What is the background color?"])
    return question, capital(s.background_color)


def ask_bigger(s: Still, rng: random.Random) -> Asked:
    if len(s.unique) < 2:
        return None
    a, b = rng.sample(s.unique, 2)
    ratio = a.size / b.size
    if not (ratio > 1.3 or ratio < 1 / 1.3):
        return None
    smaller = rng.random() < .5
    word = "smaller" if smaller else "bigger"
    winner = a if (ratio > 1) != smaller else b
    return f"Which is {word}, the {a.name} or the {b.name}?", "The " + winner.name


def ask_category(s: Still, rng: random.Random) -> Asked:
    category = rng.choice(list(CATEGORIES))
    number = sum(item.kind == "pictogram" and item.index in CATEGORIES[category]
                 for item in s.items)
    if rng.random() < .5:
        return f"How many {category}s are there?", str(number)
    return f"Is there {with_article(category)} in the image?", yes_no(number)


def ask_total(s: Still, rng: random.Random) -> Asked:
    return "How many objects are there?", str(len(s.items))


class Moving:
    """A clip, indexed for asking. Texts are only described: questions name things."""

    def __init__(self, scene: Scene):
        self.items = scene.items
        self.things = [item for item in scene.items if item.kind != "text"]
        self.movers = self._doing("move")
        self.appearing = self._doing("appear")
        self.disappearing = self._doing("disappear")
        self.still = [item for item in self.things if not item.event]

    def _doing(self, kind: str) -> list[Item]:
        return [item for item in self.things if item.event and item.event.kind == kind]


def tell(item: Item) -> str:
    """The item's part of a clip's description."""
    if item.event is None:
        return item.say + " " + CELLS[item.cell]
    if item.event.kind == "move":
        return item.say + " moving " + item.event.direction
    return f"{item.say} {item.event.kind}ing {CELLS[item.cell]}"


def ask_clip_exist(c: Moving, rng: random.Random) -> Asked:
    if c.things and rng.random() < .5:
        thing = rng.choice(c.things).name
    else:
        thing = NAMES[rng.randrange(len(NAMES))]
    form = rng.choice(["Is there {} in the video?", "Does {} appear in the video?",
                       "Can you see {}?"])
    return (form.format(with_article(thing)), yes_no(any(item.name == thing for item in c.things)))


def ask_direction(c: Moving, rng: random.Random) -> Asked:
    if not c.movers:
        return None
    item = rng.choice(c.movers)
    form = rng.choice(["In which direction does the {} move?", "Which way does the {} move?",
                       "Where does the {} go?"])
    return form.format(item.name), capital(item.event.direction)


def ask_moves(c: Moving, rng: random.Random) -> Asked:
    if len(c.movers) > 1:
        return None
    question = rng.choice(["What moves in the video?", "What is moving?", "Which object moves?"])
    return question, "The " + c.movers[0].name if c.movers else "Nothing"


def ask_moving(c: Moving, rng: random.Random) -> Asked:
    if not c.movers + c.still:
        return None
    item = rng.choice(c.movers or c.still) if rng.random() < .5 else rng.choice(c.movers + c.still)
    form = rng.choice(["Is the {} moving?", "Does the {} move?"])
    return form.format(item.name), yes_no(item in c.movers)


def ask_end(c: Moving, rng: random.Random) -> Asked:
    if not c.movers:
        return None
    item = rng.choice(c.movers)
    form = rng.choice(["Where is the {} at the end of the video?", "Where does the {} end up?"])
    return form.format(item.name), capital(CELLS[item.event.cell])


def ask_start(c: Moving, rng: random.Random) -> Asked:
    if not c.movers:
        return None
    item = rng.choice(c.movers)
    form = rng.choice(["Where is the {} at the beginning of the video?",
                       "Where does the {} start?"])
    return form.format(item.name), capital(CELLS[item.cell])


def ask_clip_where(c: Moving, rng: random.Random) -> Asked:
    if not c.still:
        return None
    item = rng.choice(c.still)
    form = rng.choice(["Where is the {}?", "Where is the {} in the video?"])
    return form.format(item.name), capital(CELLS[item.cell])


def ask_appears(c: Moving, rng: random.Random) -> Asked:
    if len(c.appearing) > 1:
        return None
    question = rng.choice(["What appears during the video?", "Which object appears?"])
    return question, capital(c.appearing[0].say) if c.appearing else "Nothing"


def ask_disappears(c: Moving, rng: random.Random) -> Asked:
    if len(c.disappearing) > 1:
        return None
    question = rng.choice(["What disappears during the video?", "Which object disappears?"])
    return question, capital(c.disappearing[0].say) if c.disappearing else "Nothing"


def ask_clip_caption(c: Moving, rng: random.Random) -> Asked:
    question = rng.choice(["Describe the video.", "What happens in the video?"])
    return question, capital(enumerate_in_words([tell(item) for item in c.items]))


# kind: (how often it is drawn, who asks); the order is that of the draw
STILL_KINDS: dict[str, tuple[int, Callable[[Still, random.Random], Asked]]] = {
    "exist": (16, ask_exist), "count": (14, ask_count), "cell": (14, ask_cell),
    "where": (12, ask_where), "relative": (13, ask_relative), "color": (9, ask_color),
    "shape": (5, ask_shape), "text": (16, ask_text), "caption": (6, ask_caption),
    "background": (4, ask_background), "bigger": (8, ask_bigger), "category": (9, ask_category),
    "total": (3, ask_total)}
CLIP_KINDS: dict[str, tuple[int, Callable[[Moving, random.Random], Asked]]] = {
    "exist": (8, ask_clip_exist), "direction": (16, ask_direction), "moves": (8, ask_moves),
    "moving": (10, ask_moving), "end": (12, ask_end), "start": (8, ask_start),
    "appears": (8, ask_appears), "disappears": (8, ask_disappears),
    "vcaption": (10, ask_clip_caption), "where": (8, ask_clip_where)}
KINDS = list(STILL_KINDS) + [kind for kind in CLIP_KINDS if kind not in STILL_KINDS]


def _ask(subject, kinds: dict, rng: random.Random, n: int) -> list[Triple]:
    names, weights = list(kinds), [weight for weight, _ in kinds.values()]
    asked: list[Triple] = []
    seen: set[str] = set()
    for _ in range(MAX_TRIES):
        if len(asked) == n:
            break
        kind = rng.choices(names, weights)[0]
        pair = kinds[kind][1](subject, rng)
        if pair is None or pair[0] in seen:
            continue
        question, answer = pair
        seen.add(question)
        if kind not in ("caption", "vcaption") and rng.random() < .3:
            question += SHORT_ANSWER
        asked.append((question, answer, kind))
    return asked


def scene_questions(scene: Scene, rng: random.Random, n: int) -> list[Triple]:
    """Up to n distinct (question, answer, kind) about a still scene."""
    return _ask(Still(scene), STILL_KINDS, rng, n)


def clip_questions(scene: Scene, rng: random.Random, n: int) -> list[Triple]:
    """Up to n distinct (question, answer, kind) about a clip."""
    return _ask(Moving(scene), CLIP_KINDS, rng, n)
