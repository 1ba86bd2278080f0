"""What `nano` is pretrained on: pictures and texts of which facts are known, and decisions that can be asked for.

No environment of the package or of Gymnasium takes part, neither with its prompt nor with its picture: those are what transfer
is measured on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from nano_drawing import CANVAS, INKS, SHAPES, SUITS, Box, Canvas

from eyas.models.nano import nano_tokenizer

Rng = np.random.Generator
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
WORDS = tuple(
    word
    for line in (
        "start stop open closed left right up down yes no red green blue level score lives home away day night north south",
        "east west on off win lose go wait key door box tree river fish bird cat dog sun moon star apple pear bread milk lamp",
    )
    for word in line.split()
)
LABELS = (
    "Score",
    "Level",
    "Lives",
    "Home",
    "Away",
    "Price",
    "Speed",
    "Team A",
    "Team B",
    "Best",
    "Last",
    "Next",
    "Min",
    "Max",
)
PAIRS = (
    ("yes", "no"), ("take", "leave"), ("open", "close"), ("red", "blue"), ("forward", "back"), ("jump", "wait"), ("a", "b"),
    ("0", "1"), ("buy", "sell"), ("fire", "hold"), ("up", "down"), ("left", "right"), ("go on", "turn back"), ("1", "2"),
)  # fmt: skip
# Names that a prompt makes up come from the whole vocabulary: what is never an answer in training could hardly become one later.
RESERVED = {"action", "thoughts", "observation", "prediction"}
VOCABULARY = sorted(
    t[1:]
    for t in nano_tokenizer().get_vocab()
    if t[0] == "Ġ" and t[1:].isascii() and t[1:].isalpha() and len(t) > 3 and t[1:].lower() not in RESERVED
)
SIGNS = tuple("+-*/=<>()#&%!?")


@dataclass(frozen=True)
class Fact:
    value: str
    names: tuple[str, ...]  # noun phrases without article, which serve as keys too


@dataclass(frozen=True)
class Decision:
    rule: str
    names: tuple[str, ...]
    action: str
    thought: str


@dataclass(frozen=True)
class Scene:
    facts: list[Fact]
    decisions: list[Decision] = field(default_factory=list)
    picture: np.ndarray | None = None  # uint8 (96, 96, 3)
    text: str = ""  # what is told in words


def pick(rng: Rng, options: Sequence):
    return options[int(rng.integers(len(options)))]


def distinct(rng: Rng, options: Sequence, count: int) -> list:
    return [options[i] for i in rng.permutation(len(options))[:count]]


def made_up(rng: Rng, most: int = 2) -> str:
    """One to `most` words of the vocabulary."""
    return " ".join(pick(rng, VOCABULARY) for _ in range(int(rng.integers(1, most + 1))))


def two_actions(rng: Rng) -> list[str]:
    """What is for yes, and what is for no; words that have a side keep it, so that deciding can be learnt before binding."""
    draw = rng.random()
    if draw < 0.75:
        return list(pick(rng, PAIRS))
    if draw < 0.85:
        return distinct(rng, SIGNS, 2)
    first, second = distinct(rng, VOCABULARY, 2)
    return [first, f"{second} {made_up(rng)}"] if rng.random() < 0.5 else [first, second]


def either(rng: Rng, condition: str, is_true: bool, thought: str) -> Decision:
    """A choice between two actions; the prompt says which is for what. Mostly the thought says whether the condition holds."""
    if rng.random() < 0.6:
        thought += ", yes" if is_true else ", no"
    first, second = two_actions(rng)
    rule = pick(rng, (
        f"Choose {first} if {condition}, else {second}.", f"If {condition}, the answer is {first}, otherwise {second}.",
        f"{first} is right when {condition}; {second} is right when not.",
    ))  # fmt: skip
    names = (first, second) if rng.random() < 0.5 else (second, first)
    return Decision(rule, names, first if is_true else second, thought)


def compared(a: int, b: int) -> str:
    relation = "larger than" if a > b else "smaller than" if a < b else "equal to"
    return f"{a} is {relation} {b}"


def a_number(rng: Rng) -> int:
    return int(rng.integers(0, (10, 10, 21, 100, 1000)[int(rng.integers(5))]))


# ----------------------------------------------------------------------------------------------- scenes with a picture


def one_number(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, number = Canvas(rng, ease), a_number(rng)
    number = number % 20 if canvas.is_plain else number
    colour = pick(rng, canvas.visible_inks()) if rng.random() < 0.3 and not canvas.is_plain else None
    canvas.text(
        str(number),
        (8, 8, 184, 184),
        90 if canvas.is_plain else 44 + 90 * rng.random(),
        INKS[colour] if colour else None,
    )
    facts = [Fact(str(number), ("number", "number shown", "value", "figure"))]
    facts += [Fact(colour, ("colour", "colour of the number"))] if colour else []
    limit = max(0, number + int(rng.integers(-6, 7)))
    return Scene(facts, [
        either(rng, f"the number is above {limit}", number > limit, compared(number, limit)),
        either(rng, "the number is even", number % 2 == 0, f"{number} is {'odd' if number % 2 else 'even'}"),
    ], canvas.picture())  # fmt: skip


def two_numbers(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, is_stacked = Canvas(rng, ease), rng.random() < 0.55
    high = 10 if canvas.is_plain else (6, 10, 10, 21, 100)[int(rng.integers(5))]
    values = [int(v) for v in rng.integers(0, high, 2)]
    sides = ("upper", "lower") if is_stacked else ("left", "right")
    labels = distinct(rng, LABELS, 2) if rng.random() < 0.5 else None
    height = 66 if canvas.is_plain else 40 + 40 * rng.random()
    column = int(rng.integers(3)) if canvas.is_plain else 1
    for i, value in enumerate(values):
        box: Box = (4, 4 + 94 * i, 188, 94 + 94 * i) if is_stacked else (4 + 94 * i, 4, 94 + 94 * i, 188)
        if labels:
            x, y, right, bottom = box
            name_box: Box = (x, y + 20, 100, bottom - 10) if is_stacked else (x, y, right, 60)
            box = (104, y, right, bottom) if is_stacked else (x, 64, right, bottom)
            if is_stacked and canvas.is_plain:  # the label stands behind its number
                name_box, box = (92, y + 20, right, bottom - 10), (x, y, 88, bottom)
            canvas.text(labels[i] + pick(rng, ("", ":")), name_box, 14 + 10 * rng.random())
        elif is_stacked and canvas.is_plain:
            box = (4 + 62 * column, box[1], 64 + 62 * column, box[3])
        canvas.text(str(value), box, height)
    ordinals = ("first", "second")
    facts = [
        Fact(str(v), (f"{labels[i].lower()}", f"{labels[i].lower()} number") if labels and rng.random() < 0.7
             else (f"{sides[i]} number", f"{ordinals[i]} number", f"number on the {sides[i]}" if not is_stacked else f"{sides[i]} value"))
        for i, v in enumerate(values)
    ]  # fmt: skip
    if rng.random() < 0.5:
        facts.reverse()
    (a, b), (x, y) = [int(f.value) for f in facts], [pick(rng, f.names) for f in facts]
    told = compared(a, b)
    decisions = [
        either(rng, f"the {x} is larger than the {y}", a > b, told),
        either(rng, f"the {x} is smaller than the {y}", a < b, told),
        either(rng, "the two numbers are equal", a == b, told),
    ]
    facts += [Fact(str(max(a, b)), ("larger number", "maximum")), Fact(str(min(a, b)), ("smaller number", "minimum"))]
    if a != b:
        rule = pick(rng, ("Name the side with the larger number.", "On which side is the larger number?"))
        decisions.append(Decision(rule, sides, sides[values.index(max(values))], told))
    sum_fact = [Fact(str(a + b), ("sum", "sum of both numbers"))] if high <= 10 and rng.random() < 0.3 else []
    return Scene(facts + sum_fact, decisions, canvas.picture())


def _card_boxes(canvas: Canvas, rng: Rng, count: int) -> list[Box]:
    if canvas.is_plain:
        x, y = 6 + canvas.place(8), pick(rng, (4, 28, 52)) + canvas.place(10)
        return [(x, y, x + 80, y + 124), (x + 94, y, x + 174, y + 124)][:count]
    is_flat = count > 3 or (count > 1 and rng.random() < 0.35)
    width, height = (84, 62) if is_flat else (int(rng.integers(50, 62)) if count == 3 else int(rng.integers(58, 90)), 0)
    height = height or min(int(width * (1.2 + 0.4 * rng.random())), 130)
    columns = min(count, 2 if is_flat or count < 3 else 3)
    rows = -(-count // columns)
    gap = int(rng.integers(2, 7))
    left = canvas.place(CANVAS - columns * width - (columns - 1) * gap)
    top = canvas.place(CANVAS - rows * height - (rows - 1) * gap)
    return [
        (x, y, x + width, y + height)
        for i in range(count)
        for x, y in [(left + i % columns * (width + gap), top + i // columns * (height + gap))]
    ]


def playing_cards(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, count = Canvas(rng, ease), int(pick(rng, (1, 2, 2, 2, 3, 4)))
    count = min(count, 2) if canvas.is_plain else count
    cards = [(int(rng.integers(1, 14)), pick(rng, SUITS)) for _ in range(count)]
    for (rank, suit), box in zip(cards, _card_boxes(canvas, rng, count), strict=True):
        canvas.card(RANKS[rank - 1], suit, box)
    ranks, suits = ", ".join(RANKS[r - 1] for r, _ in cards), ", ".join(s for _, s in cards)
    facts = [
        Fact(ranks, ("ranks", "ranks of the cards", "cards in order", "hand")),
        Fact(suits, ("suits", "suits in order")),
    ]
    if count == 1:
        (rank, suit), shown = cards[0], RANKS[cards[0][0] - 1]
        facts = [
            Fact(shown, ("rank", "rank of the card")),
            Fact(suit, ("suit", "suit of the card")),
            Fact(f"{shown} of {suit}", ("card", "name of the card")),
        ]
        limit = int(rng.integers(2, 11))
        is_red = suit in ("hearts", "diamonds")
        decisions = [
            either(rng, f"the rank is above {limit}, where A is 1", rank > limit, f"the rank is {shown}"),
            either(rng, "the card is red", is_red, f"{suit} are {'red' if is_red else 'black'}"),
        ]
        return Scene(facts, decisions, canvas.picture())
    place = int(rng.integers(count))
    ordinal = ("first", "second", "third", "fourth")[place]
    rank, suit = cards[place]
    asked = suit if rng.random() < 0.5 else pick(rng, SUITS)
    facts.append(Fact(RANKS[rank - 1], (f"rank of the {ordinal} card", f"{ordinal} card")))
    facts.append(Fact(str(count), ("number of cards", "count")))
    values = [min(r, 10) for r, _ in cards]
    facts += [Fact(str(sum(values)), ("total", "sum of the cards"))] if rng.random() < 0.25 else []
    limit = max(0, sum(values) + int(rng.integers(-6, 7)))
    decisions = [
        either(rng, f"the {ordinal} card is one of {asked}", suit == asked, f"the suits are {suits}"),
        either(
            rng,
            f"the cards add up to more than {limit}",
            sum(values) > limit,
            f"the cards {ranks} add up to {sum(values)}",
        ),
    ]
    if count == 2 and cards[0][0] != cards[1][0]:
        action = "first" if cards[0][0] > cards[1][0] else "second"
        decisions.append(Decision("Which card is higher?", ("first", "second"), action, f"the ranks are {ranks}"))
    return Scene(facts, decisions, canvas.picture())


def a_word(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, word = Canvas(rng, ease), pick(rng, WORDS)
    colour = pick(rng, canvas.visible_inks())
    shown = pick(rng, (word, word.upper(), word.capitalize()))
    canvas.text(shown, (6, 6, 186, 186), 36 + 50 * rng.random(), INKS[colour])
    other = word if rng.random() < 0.5 else pick(rng, WORDS)
    facts = [Fact(word, ("word", "text", "word in lower case")), Fact(colour, ("colour", "ink", "colour of the word"))]
    return Scene(facts, [either(rng, f"the word is {other}", word == other, f"the word is {word}")], canvas.picture())


def _side(first: tuple[float, float], second: tuple[float, float]) -> str:
    dx, dy = first[0] - second[0], first[1] - second[1]
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def shapes(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, count = Canvas(rng, ease), int(rng.integers(1, 4))
    kinds, cells = distinct(rng, SHAPES, count), distinct(rng, range(9), count)
    colours = distinct(rng, canvas.visible_inks(), count)
    places = []
    for kind, colour, cell in zip(kinds, colours, cells, strict=True):
        x, y = 32 + 64 * (cell % 3) + rng.normal() * 4, 32 + 64 * (cell // 3) + rng.normal() * 4
        places.append((float(x), float(y)))
        canvas.shape(kind, x, y, 18 + 10 * rng.random(), INKS[colour])
    i = int(rng.integers(count))
    name = kinds[i] if count > 1 else "shape"
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")
    place = f"{rows[cells[i] // 3]} {columns[cells[i] % 3]}"
    facts = [Fact(colours[i], (f"colour of the {name}",)), Fact(place, (f"place of the {name}",))]
    facts.append(Fact(kinds[i], (f"{colours[i]} shape", f"shape in {colours[i]}")))
    facts.append(Fact(str(count), ("number of shapes", "count")))
    other = colours[i] if rng.random() < 0.5 else pick(rng, list(INKS))
    decisions = [either(rng, f"the {name} is {other}", colours[i] == other, f"the {name} is {colours[i]}")]
    if count > 1:
        j = (i + 1) % count
        side = _side(places[i], places[j])
        phrase = f"side of the {kinds[i]} seen from the {kinds[j]}"
        facts.append(Fact(side, (phrase,)))
        is_on = rng.random() < 0.5
        asked = side if is_on else pick(rng, [s for s in ("left", "right", "above", "below") if s != side])
        decisions.append(
            either(rng, f"the {kinds[i]} is {asked} of the {kinds[j]}", is_on, f"the {kinds[i]} is {side}")
        )
        rule = f"Point from the {kinds[j]} to the {kinds[i]}."
        decisions.append(Decision(rule, ("left", "right", "above", "below"), side, f"the {kinds[i]} is {place}"))
    return Scene(facts, decisions, canvas.picture())


def counting(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, count = Canvas(rng, ease), int(rng.integers(0, 10))
    kind, colour = pick(rng, SHAPES), pick(rng, canvas.visible_inks())
    for cell in distinct(rng, range(16), count):
        x, y = 24 + 48 * (cell % 4) + rng.normal() * 2, 24 + 48 * (cell // 4) + rng.normal() * 2
        canvas.shape(kind, x, y, 17, INKS[colour])
    limit = int(rng.integers(0, 10))
    facts = [Fact(str(count), (f"number of {kind}s", "count", "number of things")), Fact(colour, ("colour",))]
    return Scene(
        facts, [either(rng, f"there are more than {limit}", count > limit, f"I count {count}")], canvas.picture()
    )


MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def tile_map(rng: Rng, ease: float = 0.0) -> Scene:
    canvas, size = Canvas(rng, ease), int(pick(rng, (3, 3, 4, 4, 4, 5, 6)))
    side = (150 + 42 * rng.random()) / size
    names = ("floor", "wall")
    floor, wall, agent_ink, goal_ink = (
        ("white", "black", "red", "green") if canvas.is_plain else distinct(rng, list(INKS), 4)
    )
    is_wall = rng.random((size, size)) < 0.25 * (rng.random() < 0.8)
    places = distinct(rng, [(r, c) for r in range(size) for c in range(size)], 2)
    for row, column in places:
        is_wall[row, column] = False
    kinds = [[names[int(w)] for w in line] for line in is_wall]
    left, top = canvas.tiles(kinds, {"floor": INKS[floor], "wall": INKS[wall]}, side)
    agent_kind, goal_kind = distinct(rng, SHAPES, 2)
    for (row, column), kind, ink in zip(places, (agent_kind, goal_kind), (agent_ink, goal_ink), strict=True):
        canvas.shape(kind, left + (column + 0.5) * side, top + (row + 0.5) * side, side * 0.4, INKS[ink])
    (ar, ac), (gr, gc) = places
    legend = f"You are the {agent_ink} {agent_kind}, the goal is the {goal_ink} {goal_kind}, walls are {wall}."
    blocked = [
        n for n, (dr, dc) in MOVES.items() if 0 <= ar + dr < size and 0 <= ac + dc < size and is_wall[ar + dr, ac + dc]
    ]
    own, far = f"row {ar + 1} column {ac + 1}", f"row {gr + 1} column {gc + 1}"
    ways = (["down" if gr > ar else "up"] if gr != ar else []) + (["right" if gc > ac else "left"] if gc != ac else [])
    facts = [
        Fact(own, ("own place", "position", "agent", "place of the agent")),
        Fact(far, ("goal", "place of the goal")),
        Fact(", ".join(blocked) or "none", ("walls beside you", "blocked", "walls next to the agent")),
        Fact(" and ".join(ways), ("way to the goal", "direction of the goal")),
    ]
    own_way = f"I am in {own}, the goal is in {far}", f"the goal is {' and '.join(ways)}"
    rules = (
        "Go to the goal: first to its row, then along it.",
        "Move towards the goal, up or down before left or right.",
    )
    rule, thought = pick(rng, tuple(zip(rules, own_way, strict=True)))
    prefix = "" if rng.random() < 0.7 else "move "
    order = tuple(prefix + n for n in distinct(rng, list(MOVES), 4))
    direction = pick(rng, list(MOVES))
    decisions = [
        Decision(rule, order, prefix + ways[0], thought),
        either(rng, f"a wall is next to you, {direction}", direction in blocked, f"walls are {', '.join(blocked) or 'nowhere'}"),
    ]  # fmt: skip
    return Scene(facts, decisions, canvas.picture(), legend)


# ----------------------------------------------------------------------------------------------- scenes in words


def told_numbers(rng: Rng, ease: float = 0.0) -> Scene:
    a, b = (int(v) for v in rng.integers(0, pick(rng, (10, 10, 10, 20, 100)), 2))
    things = distinct(rng, ("apples", "coins", "keys", "ships", "points", "stars", "boxes", "fish"), 2)
    text = pick(rng, (
        f"There are {a} {things[0]} and {b} {things[1]}.", f"You have {a} {things[0]}. You have {b} {things[1]}.",
        f"{things[0]}: {a}, {things[1]}: {b}.",
    ))  # fmt: skip
    facts = [Fact(str(v), (f"number of {t}", t)) for v, t in zip((a, b), things, strict=True)]
    if a < 10 and b < 10:
        facts += [Fact(str(a + b), ("sum", "total")), Fact(str(abs(a - b)), ("difference",))]
    facts += [Fact(str(max(a, b)), ("larger number",)), Fact(str(min(a, b)), ("smaller number",))]
    condition = f"there are more {things[0]} than {things[1]}"
    return Scene(facts, [either(rng, condition, a > b, compared(a, b))], text=text)


def told_words(rng: Rng, ease: float = 0.0) -> Scene:
    keys = distinct(rng, VOCABULARY, 3)
    values = [pick(rng, (made_up(rng, 3), str(a_number(rng)), pick(rng, SIGNS))) for _ in range(3)]
    join = pick(rng, (" is ", " = ", ": "))
    text = ", ".join(f"{k}{join}{v}" for k, v in zip(keys, values, strict=True)) + "."
    facts = [Fact(v, (k,)) for k, v in zip(keys, values, strict=True)]
    asked = values[0] if rng.random() < 0.5 else values[1]
    return Scene(
        facts, [either(rng, f"{keys[0]} is {asked}", values[0] == asked, f"{keys[0]} is {values[0]}")], text=text
    )


def told_list(rng: Rng, ease: float = 0.0) -> Scene:
    """Words of the whole vocabulary, to be copied and looked up: what every made-up name and value needs."""
    words = distinct(rng, VOCABULARY, int(rng.integers(3, 11)))
    place = int(rng.integers(len(words) - 1))
    before, after = words[place], words[place + 1]
    facts = [Fact(" ".join(words), ("list", "words in order"))] * 2
    facts += [Fact(after, (f"word after {before}",)), Fact(words[0], ("first word",)), Fact(words[-1], ("last word",))]
    other = words[0] if place else words[-1]
    names = (after, other) if rng.random() < 0.5 else (other, after)
    decision = Decision(f"Choose the word after {before}.", names, after, f"after {before} stands {after}")
    return Scene(facts, [decision] if after != other else [], text=f"The list is {' '.join(words)}.")


def told_place(rng: Rng, ease: float = 0.0) -> Scene:
    (ar, ac), (gr, gc) = distinct(rng, [(r, c) for r in range(1, 9) for c in range(1, 9)], 2)
    text = f"You are in row {ar}, column {ac}. The goal is in row {gr}, column {gc}."
    ways = (["down" if gr > ar else "up"] if gr != ar else []) + (["right" if gc > ac else "left"] if gc != ac else [])
    facts = [Fact(f"row {gr} column {gc}", ("goal", "place of the goal")), Fact(" and ".join(ways), ("direction",))]
    rule = "Go to the goal, up or down before left or right. Row 1 is the topmost."
    order = tuple(distinct(rng, list(MOVES), 4))
    return Scene(facts, [Decision(rule, order, ways[0], f"the goal is {' and '.join(ways)}")], text=text)


Mixture = dict[Callable[..., Scene], float]
SCENES: Mixture = {
    one_number: 0.13,
    two_numbers: 0.22,
    playing_cards: 0.21,
    a_word: 0.05,
    shapes: 0.1,
    counting: 0.04,
    tile_map: 0.13,
    told_numbers: 0.05,
    told_words: 0.04,
    told_place: 0.03,
}
FOCUSED: Mixture = SCENES | {  # on what all else needs: figures, cards, comparing, colours and places
    one_number: 0.06,
    two_numbers: 0.34,
    playing_cards: 0.2,
    a_word: 0.02,
    shapes: 0.08,
    counting: 0.02,
    tile_map: 0.05,
    told_numbers: 0.16,
    told_words: 0.06,
    told_place: 0.01,
}
COPYING: Mixture = {  # then also copying from the prompt, which the choice of an action needs
    one_number: 0.04,
    two_numbers: 0.28,
    playing_cards: 0.2,
    shapes: 0.06,
    counting: 0.02,
    tile_map: 0.1,
    told_numbers: 0.09,
    told_words: 0.08,
    told_list: 0.12,
    told_place: 0.01,
}
