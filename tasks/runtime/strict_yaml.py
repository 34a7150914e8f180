"""YAML as params.yaml may use it: what is read is what is written, or a fault that says where."""

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.cyaml import CParser
from yaml.resolver import Resolver


class StrictLoader(Composer, CParser, SafeConstructor, Resolver):  # type: ignore[misc]
    """SafeLoader that refuses duplicate keys and aliases (a few aliases can expand without bound).

    libyaml reads the text, which takes a sixth of the time of PyYAML's own parser; nodes are composed here.
    """

    def __init__(self, stream: str) -> None:
        CParser.__init__(self, stream)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a name must be text, not a list or mapping")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> Any:
        value = super().construct_yaml_int(node)  # type: ignore[no-untyped-call]
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", node.value):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: YAML reads {node.value} as {value}; write that or quote it")
        return value


StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_yaml_int)


def first_fault(error: Exception) -> str:
    """Where and what, in one line, of a YAMLError of either reader: PyYAML's or ruamel's."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"
    return " ".join(str(error).split())
