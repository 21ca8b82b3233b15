"""Random scenes and clips: which objects stand where, and how they move. No pixels here.

A scene is a list of items (pictograms, coloured shapes, short texts) in distinct cells of a 3 x 3
grid over a content box; a clip is a scene whose items may move, appear or disappear. Coordinates
are pixels of the canvas. Every function draws from the `random.Random` it is given, in a fixed
order: changing that order changes the data a seed stands for.
"""
from __future__ import annotations

import random
from dataclasses import dataclass, field

from classes import PICTOGRAMS

VIEW = 336
NAMES = [name for name, _ in PICTOGRAMS]
SHAPES = ["circle", "square", "triangle", "star", "pentagon", "hexagon", "heart", "cross", "ring",
          "diamond", "rectangle"]
COLORS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220),
    "yellow": (245, 215, 40), "orange": (245, 140, 30), "purple": (130, 50, 170),
    "pink": (245, 130, 180), "brown": (125, 75, 40), "black": (25, 25, 25),
    "white": (245, 245, 245), "gray": (130, 130, 130), "cyan": (50, 200, 215)}
COLOR_NAMES = list(COLORS)
BACKGROUNDS = ["solid", "grad", "noise", "photo"]
ITEM_KINDS = ["pictogram", "shape", "text"]
N_FONTS = 8
MASS = {"scissors", "glasses", "jeans", "fries", "pancakes", "grapes", "cherries", "bacon",
        "broccoli", "corn", "honey", "milk", "coffee", "beer", "wine", "chocolate", "popcorn",
        "bread", "cheese", "dice"}

Box = tuple[int, int, int, int]


def with_article(noun: str) -> str:
    """The noun with its indefinite article; mass nouns and pairs have none."""
    if noun in MASS:
        return noun
    vowel = noun[0] in "aeiou" and noun != "unicorn"
    return ("an " if vowel else "a ") + noun


@dataclass
class Event:
    """What an item does in a clip: move (direction, to cell), appear or disappear."""
    kind: str
    direction: str = ""
    cell: int = -1


@dataclass(eq=False)
class Item:
    """One object. `index` counts in NAMES or SHAPES, `color` in COLOR_NAMES; text has no index."""
    kind: str
    cell: int
    name: str
    say: str
    size: float
    index: int = -1
    style: int = 0
    color: int = -1
    text: str = ""
    is_number: bool = False
    font: int = 0
    x: float = 0.0
    y: float = 0.0
    rotation: float = 0.0
    flip: bool = False
    track: list[tuple[float, float, int]] = field(default_factory=list)
    event: Event | None = None


@dataclass
class Scene:
    """`grid`: the item of each cell, or None. An item's `track`: (x, y, visible) per frame."""
    box: Box
    background: str
    color: str
    color2: str
    items: list[Item] = field(default_factory=list)
    grid: list[Item | None] = field(default_factory=lambda: [None] * 9)


def _luminance(color: str) -> float:
    return sum(COLORS[color]) / 3


def _readable_colors(scene: Scene) -> list[int]:
    """Colours a text can be read in on the scene's background; black or white if there is none."""
    grounds = [scene.color] + ([scene.color2] if scene.background == "grad" else [])
    good = [i for i, c in enumerate(COLOR_NAMES)
            if all(abs(_luminance(c) - _luminance(g)) > 70 for g in grounds)]
    dark_on_light = _luminance(scene.color) > 120
    return good or [COLOR_NAMES.index("black" if dark_on_light else "white")]


def _pictogram(rng: random.Random, cell: int, repeated: int | None) -> Item:
    again = repeated is not None and rng.random() < .55
    index = repeated if again else rng.randrange(len(NAMES))
    style = rng.randrange(2)
    size = rng.uniform(42, 114)
    name = NAMES[index]
    return Item("pictogram", cell, name, with_article(name), size, index=index, style=style)


def _shape(rng: random.Random, scene: Scene, cell: int, repeated: tuple[int, int] | None) -> Item:
    if repeated and rng.random() < .5:
        index, color = repeated
    else:
        index, color = rng.randrange(len(SHAPES)), rng.randrange(len(COLORS))
    flat = scene.background in ("solid", "grad")
    while flat and COLOR_NAMES[color] in (scene.color, scene.color2):
        color = rng.randrange(len(COLORS))
    size = rng.uniform(36, 104)
    say = with_article(COLOR_NAMES[color] + " " + SHAPES[index])
    return Item("shape", cell, SHAPES[index], say, size, index=index, color=color)


def _text(rng: random.Random, scene: Scene, cell: int, n_fonts: int) -> Item:
    is_number = rng.random() < .5
    if is_number:
        text = str(rng.randrange(10 ** rng.randint(1, 3)))
    else:
        text = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))
    color = rng.choice(_readable_colors(scene))
    font = rng.randrange(n_fonts)
    size = rng.uniform(26, 42)
    say = ("the number " if is_number else "the word ") + text
    return Item("text", cell, "text", say, size, color=color, text=text, is_number=is_number,
                font=font)


def _place(rng: random.Random, item: Item, box: Box) -> None:
    """Anywhere in the item's cell that keeps it inside, turned a little."""
    row, column = divmod(item.cell, 3)
    cell_w, cell_h = box[2] / 3, box[3] / 3
    half_w = item.size / 36 * 64 if item.kind == "text" else item.size / 2
    play_x, play_y = max(0, cell_w / 2 - half_w), max(0, cell_h / 2 - item.size / 2)
    item.x = box[0] + cell_w * (column + .5) + rng.uniform(-play_x, play_x)
    item.y = box[1] + cell_h * (row + .5) + rng.uniform(-play_y, play_y)
    turn = .06 if item.kind == "text" else .25
    item.rotation = rng.uniform(-turn, turn)
    item.flip = item.kind == "pictogram" and rng.random() < .5


def _enlarge(rng: random.Random, item: Item, box: Box) -> None:
    """A lone item may fill the picture; its cell is then where its centre falls."""
    short = min(box[2], box[3])
    item.size = rng.uniform(110, 300) * short / VIEW
    margin = min(short / 2, item.size * .45)
    item.x = rng.uniform(box[0] + margin, box[0] + box[2] - margin)
    item.y = rng.uniform(box[1] + margin, box[1] + box[3] - margin)
    row = min(2, int((item.y - box[1]) // (box[3] / 3)))
    column = min(2, int((item.x - box[0]) // (box[2] / 3)))
    item.cell = row * 3 + column


def sample_scene(rng: random.Random, n_fonts: int = N_FONTS, box: Box = (0, 0, VIEW, VIEW),
                 shrink: float = 1., clip: bool = False) -> Scene:
    """One to six items in distinct cells of the box; sizes are for a 336-pixel box x `shrink`."""
    if clip:
        n = rng.choice([1, 2, 2, 3, 3, 4])
    else:
        n = rng.choices([1, 2, 3, 4, 5, 6], [1, 3, 4, 4, 3, 2])[0]
    cells = rng.sample(range(9), n)
    background = rng.choices(BACKGROUNDS, [35, 20, 20, 25])[0]
    scene = Scene(box, background, rng.choice(COLOR_NAMES), rng.choice(COLOR_NAMES))
    # The same pictogram or shape several times, so that counting has something to count.
    again = rng.randrange(len(NAMES)) if rng.random() < .45 and not clip else None
    again_shape = None
    if rng.random() < .2 and not clip:
        again_shape = (rng.randrange(len(SHAPES)), rng.randrange(len(COLORS)))
    unit = min(box[2], box[3]) / VIEW * shrink
    for cell in cells:
        u = rng.random()
        n_texts = sum(item.kind == "text" for item in scene.items)
        if u < .62:
            item = _pictogram(rng, cell, again)
        elif u < .81 or n_texts >= 2:
            item = _shape(rng, scene, cell, again_shape)
        else:
            item = _text(rng, scene, cell, n_fonts)
        if clip and any(other.name == item.name for other in scene.items):
            continue        # in a clip "the dog" must be one dog
        item.size *= unit
        _place(rng, item, box)
        scene.items.append(item)
    if not clip and n == 1 and rng.random() < .5 and scene.items[0].kind != "text":
        _enlarge(rng, scene.items[0], box)
    scene.items.sort(key=lambda item: item.cell)
    for item in scene.items:
        scene.grid[item.cell] = item
    return scene


def _ways_out(cell: int, free: list[int]) -> list[tuple[str, int]]:
    """(direction, cell) of the straight ways to the grid's edge that end in a free cell."""
    row, column = divmod(cell, 3)
    ways = [("left", cell - column)] * (column > 0) + [("right", cell - column + 2)] * (column < 2)
    ways += [("up", column)] * (row > 0) + [("down", 6 + column)] * (row < 2)
    return [(direction, end) for direction, end in ways if end in free]


def _move(item: Item, direction: str, end: int, frames: int) -> None:
    row, column = divmod(end, 3)
    if direction in ("left", "right"):
        end_x, end_y = 56 + 112 * column, item.y
    else:
        end_x, end_y = item.x, 56 + 112 * row
    item.track = [(item.x + (end_x - item.x) * i / (frames - 1),
                   item.y + (end_y - item.y) * i / (frames - 1), 1) for i in range(frames)]
    item.event = Event("move", direction, end)


def sample_clip(rng: random.Random, frames: int, n_fonts: int = N_FONTS) -> Scene:
    """A scene whose items have a track of `frames` positions; up to two of them do something."""
    scene = sample_scene(rng, n_fonts, clip=True)
    free = [cell for cell in range(9) if scene.grid[cell] is None]
    for item in scene.items:
        item.track = [(item.x, item.y, 1)] * frames
    order = scene.items[:]
    rng.shuffle(order)
    for item in order[:rng.choice([0, 1, 1, 1, 2])]:
        kind = rng.choice(["move", "move", "move", "appear", "disappear"])
        if kind == "move":
            ways = _ways_out(item.cell, free)
            if not ways:
                continue
            direction, end = rng.choice(ways)
            free.remove(end)
            _move(item, direction, end, frames)
        else:
            change = rng.randint(1, frames - 1)
            item.track = [(item.x, item.y, int((i >= change) == (kind == "appear")))
                          for i in range(frames)]
            item.event = Event(kind)
    return scene
