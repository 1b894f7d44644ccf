"""The names of the classes that masks count, from the file that lies beside them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Colour = tuple[int, int, int]
# What such a file is called, in small letters.
CLASS_FILES = ("objectinfo150.txt", "classes.txt", "class_names.txt")
CLASS_JSON = ("classes.json", "class_names.json", "id2label.json")
ACCEPTED = (
    "objectInfo150.txt as ADE20K has it, classes.txt with a name in each line, or classes.json with a list of names, "
    'an object of values and names ({"1": "wall"}), or a list of objects with "name" and "color"'
)


@dataclass(frozen=True)
class ClassList:
    """The classes of masks.

    Attributes:
        names: in the order of the values.
        first_value: the value of the first class in a mask, 0 or 1; None where the file does not say.
        colours: the number of the class, from 0, by its colour; none where the file has no colours.
    """

    names: list[str]
    first_value: int | None = None
    colours: dict[Colour, int] = field(default_factory=dict)


def find_class_file(place: Path) -> Path:
    """The file with the names of the classes in a folder.

    Raises:
        ValueError: if there is none, or more than one.
    """
    found = sorted(entry for entry in place.iterdir() if is_class_file(entry))
    if not found:
        raise ValueError(f"{str(place)!r} has no file with the names of the classes: {ACCEPTED}.")
    if len(found) > 1:
        raise ValueError(
            f"{str(place)!r} has {' and '.join(repr(file.name) for file in found)}: which has the names of the classes?"
        )
    return found[0]


def read_class_list(path: Path) -> ClassList:
    """Read the names of the classes.

    Args:
        path: objectInfo150.txt as ADE20K has it, of whose synonyms the first is taken; a text with a name in each line;
            or JSON: a list of names, an object of values and names, or a list of objects with "name" and "color".

    Raises:
        ValueError: if it is none of these, names fewer than two classes, or says one thing twice; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            listed = _from_json(json.loads(text))
        elif re.match(r"Idx\b", text):
            listed = _from_object_info(text)
        else:
            listed = ClassList([line.strip() for line in text.splitlines() if line.strip()])
    except ValueError as error:
        raise ValueError(f"The names of the classes in {str(path)!r} cannot be read: {error}") from error
    if len(listed.names) < 2:
        raise ValueError(f"{str(path)!r} must name two classes or more, got {listed.names}.")
    return listed


def _from_object_info(text: str) -> ClassList:
    """ADE20K's table: a number from 1 first, the synonyms last."""
    names: list[str] = []
    for number, line in enumerate(text.splitlines()[1:], start=2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t") if cell.strip()]
        if cells[0] != str(len(names) + 1) or len(cells) < 2:
            raise ValueError(f"line {number} must begin with {len(names) + 1} and end with a name, got {line!r}.")
        names.append(re.split(r"[,;]", cells[-1])[0].strip())
    return ClassList(names, first_value=1)


def _from_json(content: Any) -> ClassList:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return ClassList([name.strip() for name in content])
    if isinstance(content, dict):
        return _from_values(content)
    if isinstance(content, list):
        return _from_colours(content)
    raise ValueError(f"it holds {type(content).__name__} {content!r}. Accepted: {ACCEPTED}.")


def _from_values(content: dict[str, Any]) -> ClassList:
    """`{"0": "wall", "1": "sky"}`, or counted from 1."""
    wrong = [each for each in content.items() if not (each[0].isdecimal() and isinstance(each[1], str))]
    if wrong:
        raise ValueError(f"each value must be a whole number and have a name, got {wrong[0][0]!r}: {wrong[0][1]!r}.")
    by_value = {int(value): name.strip() for value, name in content.items()}
    values = sorted(by_value)
    if len(values) < len(content) or values[:1] not in ([0], [1]) or values != list(range(values[0], values[-1] + 1)):
        raise ValueError(f"the values must count from 0 or from 1 without gaps, got {', '.join(content)}.")
    return ClassList([by_value[value] for value in values], first_value=values[0])


def _from_colours(content: list[Any]) -> ClassList:
    """`[{"name": "wall", "color": [120, 120, 120]}]`."""
    names: list[str] = []
    colours: dict[Colour, int] = {}
    for index, each in enumerate(content):
        name, colour = _name_and_colour(each)
        if not isinstance(name, str) or not _is_colour(colour):
            raise ValueError(f'class {index} must have a "name" and a "color" of three numbers to 255, got {each!r}.')
        red, green, blue = colour
        known = colours.setdefault((red, green, blue), index)
        if known != index:
            raise ValueError(f"{names[known]!r} and {name!r} have one colour, {colour}.")
        names.append(name.strip())
    return ClassList(names, colours=colours)


def _name_and_colour(each: Any) -> tuple[Any, Any]:
    return (each.get("name"), each.get("color")) if isinstance(each, dict) else (None, None)


def _is_colour(colour: Any) -> bool:
    return isinstance(colour, list) and len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour)


def is_class_file(path: Path) -> bool:
    """Whether a file is one that `find_class_file` looks for."""
    return path.name.lower() in (*CLASS_FILES, *CLASS_JSON) and path.is_file()
