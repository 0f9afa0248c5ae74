"""Messages about a configuration that cannot be read: one sentence instead of jsonargparse's many lines."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import yaml
from jsonargparse import Namespace

from cahl_pl.errors import ConfigError
from cahl_pl.errors.class_entries import line_of_value, no_such_class

CLASSES = {
    "data.train": ("cahl_pl.datasets.JsonlDataset", "path"),
    "data.environment": ("cahl_pl.environments.ExecutableEnvironment", "toolkit"),
    "data.requests": ("cahl_pl.datasets.Requests", "source"),
    "data.validation": ("cahl_pl.datasets.JsonlDataset", "path"),
    "trainer.logger": ("lightning.pytorch.loggers.TensorBoardLogger", "save_dir"),
    "trainer.callbacks": ("cahl_pl.callbacks.BeforeAfter", None),
    "data.engine": ("cahl_pl.engines.TransformersEngine", None),
    "data.schedule": ("cahl_pl.schedules.Alternate", None),
}
"""A key that takes a class -> one of its classes, and its option that takes a file or a folder."""


_FILES: Final = (".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".py")
"""Endings of file names that may look like the path of a class, without those that describe one (.yaml, .json)."""


def sentence(message: str, known: Collection[str], verbs: Collection[str]) -> str:
    """Return one sentence for jsonargparse's report of many lines, with the nearest key for an unknown one.

    Args:
        message: its report.
        known: all configuration keys.
        verbs: subcommands that take a configuration, besides `fit`.
    """
    unknown = re.search(
        r"(?:unrecognized arguments: --|(?:Group '(?P<group>[^']+)' )?does not accept option '|^Option ')(?P<key>[^\s=']+)",
        message,
    )
    if unknown:
        whole = ".".join(part for part in (unknown["group"], unknown["key"]) if part)
        near = difflib.get_close_matches(whole, known, 1)
        hint = f"did you mean {near[0]}?" if near else "--help lists them"
        return f"there is no configuration key {whole}; {hint}"
    if hyphen := re.match(r"unrecognized arguments: (-(?=\w+\.)[^\s=]+)", message.strip()):
        return f"{hyphen[1]}: keys begin with two hyphens: -{hyphen[1]}"
    if bare := re.match(r"unrecognized arguments: (([\w.]+)=\S*)", message.strip()):
        return f"{bare[1]!r} belongs to no option: a key begins with two hyphens, --{bare[1]}"
    if alone := re.fullmatch(r"unrecognized arguments: (?!-)(\S+).*", message.strip(), re.DOTALL):
        return f"{alone[1]!r} belongs to no option: a configuration is given by -c {alone[1]}, a value by --KEY {alone[1]}"
    if re.fullmatch(r"argument -c/--config: expected one argument", message.strip()):
        return "-c takes a configuration: a file, or the name of one that ships, such as -c quickstart"
    missing = re.match(r"the following arguments are required: (.+)", message)
    if missing:
        return _what_is_missing(missing[1].split(", "), verbs)
    key = re.match(r'Parser key "([^"]+)":', message)
    rest = message[key.end() :] if key else message
    nested = re.search(r"NestedArg\(key='([^']+)'", rest)
    if nested and key:
        return f"--{key[1]}.{nested[1]} is an option of a class, which has to be named before it: --{key[1]} CLASS"
    # for a value that fits none of several types, the fault of the class that was named is most informative
    problem = re.search(
        r"Problem with given class_path '([^']+)':(.+?)(?=\n\s*- |\n\s*Given value|\Z)", rest, re.DOTALL
    )
    if problem and key:
        option = re.fullmatch(r"\s*Option '([^']+)' is not accepted\s*", problem[2])
        if option:
            return (
                f"there is no configuration key {key[1]}.init_args.{option[1]}; {_nearest_option(problem[1], option[1])}"
                f"--{key[1]}.help {problem[1]} lists those of its class"
            )
        if (no_class_there := no_such_class(problem[1])) is not None:
            return f"{key[1]}: {no_class_there}"
        rest = f"{problem[1]}: {problem[2]}"
    if key and (said := _of_wrong_class(key[1], rest)):
        return said
    if key and (said := _of_several_types(rest)):
        return f"{key[1]}: {said}"
    rest = re.sub(r"typing\.Literal\[([^\]]*)\]", r"value out of \1", re.sub(r"<class '([\w.]+)'>", r"\1", rest))
    rest = re.sub(r"Expected an? (.+?)\. Got value:", r"expected \1 but got", rest, flags=re.DOTALL)
    return " ".join([f"{key[1]}:" if key else "", *rest.split()]).strip()


_NO_CLASS: Final = re.compile(
    r"Expected a dot import path string: (.+)|Config file loop detected: .* -> (.+)|Unexpected import path format: (.+)"
    r"|Not a valid subclass of \w+\. Got value: (.+?)(?:\s+Subclass types expect|\Z)",
    re.DOTALL,
)


def _of_wrong_class(key: str, report: str) -> str | None:
    """Return a sentence on a value that should be a class but is none, or the wrong one; None for other reports."""
    no_class = _NO_CLASS.search(report)
    if no_class:
        return _no_class(key, next(filter(None, no_class.groups())).splitlines()[0].strip())
    abstract = re.search(r"Expected an instantiatable class, but (\S+) is abstract", report)
    other = re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", report)
    found = abstract or other
    given = found and (found[1] or report.rpartition("Given value: ")[2].strip())
    if not given or not re.fullmatch(r"[\w.]+", given):
        return None
    example = f", such as {CLASSES[key][0]}" if key in CLASSES else ""
    if abstract:
        return f"{key}: {given} is abstract: name a class that is derived from it{example}"
    return f"{key}: {given} is no {other[2] if other else 'class'}: name a class that is derived from it{example}"


def cause(message: str) -> str:
    """Return a constructor's refusal, out of jsonargparse's report on every type that the value could have had."""
    if "Does not validate against any of" not in message:
        return message
    reasons = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip().startswith("- ")]
    told = [line for line in reasons if not line.startswith(("Does not validate", "Expected a", "Import path"))]
    return told[-1] if told else message


_OF_YAML: Final = {
    "could not determine a constructor for the tag": "a tag (!NAME) stands before the value: leave it out, a class is named "
    "by its class_path",
    "but found another document": "a second document begins here (---): write one, or give two files, each behind -c",
}
"""YAML's message about something valid that has no place in a configuration -> the remedy."""


def unreadable(error: Exception) -> str:
    """Return the text after the path of a configuration that is not YAML: the line, and the likely fault there."""
    cure = "; indent with spaces, not with tabs" if "'\\t'" in str(error) else ""
    mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", ""))
    for begun, remedy in _OF_YAML.items():
        if mark is not None and problem.startswith(begun):
            return f", line {mark.line + 1}: {remedy}"
    if mark is None or cure:
        return f" cannot be read: {error}{cure}"
    return (
        f", line {mark.line + 1}: the YAML cannot be read ({getattr(error, 'problem', error)}): keys of one group begin in the "
        "same column, and what is opened there or above, a quotation mark or a bracket, is closed"
    )


MAX_VALUES: Final = 100_000
"""Limit on a configuration's values, those of aliases counted each time: a few lines of them may represent a billion."""


def fault_of_anchors(text: str) -> str | None:
    """Return the fault in YAML's anchors and aliases: a value that contains itself, or represents too many.

    Args:
        text: text of a configuration, whose YAML is valid.
    """
    sizes: dict[int, int] = {}  # of finished nodes; 0 for those in progress

    def size_of(node: Any) -> int:
        if node is None or isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = 0
            parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[id(node)] = 1 + sum(map(size_of, parts))
        if not sizes[id(node)]:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: what is anchored here (&NAME) holds itself by an alias (*NAME): write out "
                "what is meant"
            )
        return sizes[id(node)]

    try:
        count = size_of(yaml.compose(text, Loader=yaml.SafeLoader))
    except ConfigError as error:
        return str(error)
    if count > MAX_VALUES:
        return f"its aliases (*NAME) stand for {count:,} values, and {MAX_VALUES:,} are the most: write out what is meant"
    return None


_TEXT: Final = "tag:yaml.org,2002:str"
_MERGE: Final = "tag:yaml.org,2002:merge"


def _shown(key: Any) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"


def fault_of_mapping(text: str) -> str | None:
    """Return a fault in YAML that can be read nevertheless, with its line: a repeated key, no space after a colon.

    Args:
        text: text of a configuration, whose YAML is valid.
    """
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value in ("trainer", "model", "data") and value.tag == "tag:yaml.org,2002:null":
            line = key.start_mark.line + 1
            return f"line {line}: there is nothing below {key.value!r}: indent the keys that belong to it, or leave it out"
        if key.value in ("trainer", "model", "data") and isinstance(value, yaml.ScalarNode) and re.search(r"\s", value.value):
            line = key.start_mark.line + 1
            given = value.value.splitlines()[0]
            return f"line {line}: {key.value} has keys of its own, and {given!r} is none: write KEY: VALUE lines below it"
    nodes, seen, free = [root], set[int](), set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue  # several aliases may lead to it
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            free |= {id(one) for one in node.value if id(node) in free}
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.tag != _TEXT and key.tag != _MERGE and id(node) not in free:
                    return (
                        f"line {line}: {_shown(key)} is no key: a key is a name, and a number is written with a point, as in "
                        "0.001"
                    )
                if id(node) in free or key.value in ("init_args", "dict_kwargs"):
                    free.add(id(value))  # of a class: its options may map from numbers
                if key.value in lines and isinstance(key, yaml.ScalarNode):
                    return f"line {line}: the key {key.value!r} stands in line {lines[key.value]} already: leave one of them"
                lines[str(key.value)] = line
                plain = isinstance(value, yaml.ScalarNode) and value.style is None
                if plain and (glued := re.match(r"([a-z_]+):\S", value.value)) and value.start_mark.line >= line:
                    return f"line {value.start_mark.line + 1}: write a space behind {glued[1] + ':'!r}"
                nodes.append(value)
    return None


def fault_of_groups(config: Namespace, known: Collection[str]) -> str | None:
    """Return a sentence on a key with sub-keys that was given another value, which jsonargparse ignores.

    Args:
        config: the parsed configuration; what `get` does not find is None.
        known: all configuration keys.
    """
    within: dict[str, list[str]] = {}
    for key in known:
        group, _, name = key.rpartition(".")
        if group and name != "help":
            within.setdefault(group, []).append(name)
    for group, names in sorted(within.items()):
        if isinstance(config.get(group), list | tuple | int | float | str):
            return f"{group} has keys of its own, such as {min(names)}: write them below it"
    return None


def line_of(path: str, text: str, told: str, message: str = "") -> str:
    """Return the file and the line of a sentence's subject, to put before the sentence; empty if it is not there.

    Args:
        path: the file.
        text: its content.
        told: the sentence, which names a key.
        message: the report it was made from; the class that it names determines the line within the key's value.
    """
    given = re.search(r"Problem with given class_path '([^']+)'|Import path ([\w.]+) does not", message)
    if given and (at := line_of_value(text, given[1] or given[2])) is not None:
        option = re.search(r"\.init_args\.(\w+);", told)
        if option is None:
            return f"{path}, line {at}: "
    found = re.search(r"configuration key ([\w.-]+)", told) or re.match(r"(?:--)?([\w.]+)", told)
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    line = None
    for part in found[1].split(".") if found else ():
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        pair = next(((key, value) for key, value in pairs if key.value == part), None)
        if pair is None:
            return ""
        line, node = pair[0].start_mark.line + 1, pair[1]
    return f"{path}, line {line}: " if line is not None else ""


def _what_is_missing(keys: Sequence[str], verbs: Collection[str]) -> str:
    """Return a sentence on the usual way to give required keys: by a configuration."""
    verb = keys[0].partition(".")[0] if keys[0].startswith(("fit.", *(f"{name}." for name in verbs))) else None
    names = [key.removeprefix(f"{verb}.") for key in keys]
    example = f"cahl-pl {verb} -c quickstart" if verb else "-c quickstart"
    options = " ".join(f"--{name} {CLASSES.get(name, ('VALUE',))[0]}" for name in names)
    return (
        f"nothing says what {' and '.join(names)} {'is' if len(names) == 1 else 'are'}: give a configuration with -c, a file "
        f"or the name of one that ships, as in {example}; or {options}"
    )


def fault_of_values(text: str) -> str | None:
    """Return the fault, with its line, of a file given instead of a class, or one class instead of named sets.

    Args:
        text: text of a configuration, whose YAML is valid.
    """
    for key in (*CLASSES, "data.test"):
        at: Any = None
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        for part in key.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            at, node = next(((name, value) for name, value in pairs if name.value == part), (None, None))
        kind = None
        if isinstance(node, yaml.MappingNode):
            kind = "one class" if any(name.value == "class_path" for name, _ in node.value) else None
        elif isinstance(node, yaml.SequenceNode):
            kind = "a list"
        elif node is not None:
            kind = None if node.tag == "tag:yaml.org,2002:null" else node.value
        if kind is not None and (said := fault_of_value(key, kind)):
            return f"line {at.start_mark.line + 1}: {said}"
    return None


def fault_of_value(key: str, given: str) -> str | None:
    """Return the fault in the value of a key that takes a class, or named sets; None if that is not known yet.

    Args:
        key: the key.
        given: its value, or the kind of value.
    """
    if key == "data.test" and not given.startswith("{") and given != "null":
        kind = given if given in ("one class", "a list") else "a list" if given.startswith("[") else repr(given)
        return (
            f"data.test is {kind}, and takes named sets: write a name above the class, such as test: {{mine: {{class_path: "
            "cahl_pl.datasets.JsonlDataset, init_args: {path: rows.jsonl}}}"
        )
    return _no_class(key, given) if key in CLASSES and given.endswith(_FILES) else None


def _no_class(key: str, given: str) -> str:
    """Return a sentence on what to give instead of a value that is not a class."""
    known, option = CLASSES.get(key, ("MODULE.CLASS", None))
    sentence = f"--{key} takes the import path of a class, such as {known}, and {given!r} is none"
    if option:
        value = given if re.search(r"[./\\]", given) else "VALUE"
        sentence += f"; what its class reads is an option of it: --{key} {known} --{key}.{option} {value}, or in YAML "
        sentence += f"{key.rpartition('.')[2]}: {{class_path: {known}, init_args: {{{option}: {value}}}}}"
    return sentence


def _nearest_option(class_path: str, option: str) -> str:
    """Return the option of a class that was probably meant, as part of a sentence; empty if none is near."""
    try:
        options = inspect.signature(pkgutil.resolve_name(class_path)).parameters
    except Exception:  # a short name, or what cannot be imported
        return ""
    near = difflib.get_close_matches(option, options, 1)
    return f"did you mean {near[0]}? " if near else ""


def _of_several_types(text: str) -> str | None:
    """Return a sentence on a value that is of none of several plain types; None if more than its type is wrong."""
    given = re.search(r"Given value: (.*)\Z", text, re.DOTALL)
    reasons = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    if "Does not validate against any of the Union subtypes" not in text or given is None:
        return None
    kinds = [
        re.fullmatch(r"- Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])", line) for line in reasons
    ]
    if not kinds or not all(kinds):
        return None
    names = [("null" if kind[1] == "NoneType" else kind[1] or f"one of {kind[2]}") for kind in kinds if kind]
    return f"expected {' or '.join(names)} but got {given[1].strip()}"
