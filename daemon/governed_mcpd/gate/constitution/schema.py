"""The Cedar schema of constitutions: what policies may ask about, and the actions and resources that there are."""

import re
from importlib.resources import files

import cedarpy

SCHEMA_TEXT = files(__package__).joinpath("schema.cedarschema").read_text(encoding="utf-8")
SCHEMA = cedarpy.Schema.from_str(SCHEMA_TEXT)


def _actions() -> tuple[dict[str, frozenset[str]], dict[str, tuple[str, ...]]]:
    """The schema's actions that apply to something: each with itself and the groups above it, and with the types of its
    resources."""
    declared: dict[str, frozenset[str]] = {}
    applied: dict[str, tuple[str, ...]] = {}
    for statement in re.findall(r'action ((?:"[^"]+",?\s*)+)(.*?);', SCHEMA_TEXT, re.DOTALL):
        names = re.findall(r'"([^"]+)"', statement[0])
        groups = re.search(r'in \["([^"]+)"\]', statement[1])
        above = declared[groups[1]] if groups else frozenset[str]()
        for name in names:
            declared[name] = above | {name}
            if types := re.search(r"resource: (\w+|\[[^]]*\])", statement[1]):
                applied[name] = tuple(re.findall(r"\w+", types[1]))
    return {name: declared[name] for name in applied}, applied


ACTIONS, RESOURCES = _actions()
ACTION_ENTITIES = [
    {"uid": {"type": "Action", "id": name}, "attrs": {}, "parents": [{"type": "Action", "id": up} for up in parents]}
    for name, parents in {
        **{name: above - {name} for name, above in ACTIONS.items()},
        "file.change": frozenset(("file",)),
        "file": frozenset[str](),
        "net": frozenset[str](),
        "process": frozenset[str](),
    }.items()
]
