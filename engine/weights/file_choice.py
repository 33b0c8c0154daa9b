"""Which of a model's packed files `-f` means. Knows names alone: no directory, no repository.

A candidate is a file, or all splits of one. A number stands for the best quantisation of so many
bits that there is, in the order of `BY_BITS`: llama.cpp's own recommendations first, its small
look-up formats last.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from engine.errors import LoadError

BY_BITS = {
    "2": ("Q2_K", "Q2_K_S", "Q2_K_L", "Q2_K_XL", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
    "3": ("Q3_K_M", "Q3_K", "Q3_K_L", "Q3_K_S", "Q3_K_XL", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
    "4": (
        *("Q4_K_M", "Q4_K", "Q4_K_S", "Q4_0", "Q4_1", "Q4_K_L", "Q4_K_XL"),
        *("IQ4_NL", "IQ4_XS", "MXFP4"),
    ),
    "5": ("Q5_K_M", "Q5_K", "Q5_K_S", "Q5_0", "Q5_1", "Q5_K_L", "Q5_K_XL"),
    "6": ("Q6_K", "Q6_K_L", "Q6_K_XL"),
    "8": ("Q8_0", "Q8_K", "Q8_K_XL"),
}
_MOST_LISTED = 40
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_QUANT = re.compile(r"(ud-)?(i?q|tq|bf|f|fp|mxfp|nvfp)\d+\w*", re.IGNORECASE)


def choose(wanted: str | None, names: Iterable[str], where: str, suffix: str) -> tuple[str, ...]:
    """The files of `names` (paths below `where`) that end in `suffix` and that `wanted` means.

    `wanted` is file names or patterns (`*Q4_K_M*`) apart by `;` or, if no name has one, by spaces;
    a quantisation (`Q4_K_M`, in any case); or its number of bits. None takes the only candidate.
    Raises LoadError, listing the candidates, if that is no model or more than one.
    """
    models = candidates(names, suffix)
    if wanted is None:
        return _only(list(models), "", models, where, suffix)
    parts = _parts(wanted, models)
    if not parts:
        raise LoadError(f"{wanted!r} names no file; say which one with -f FILE{suffix}.")
    chosen = [_one(part, models, where, suffix) for part in parts]
    return tuple(dict.fromkeys(name for names_of in chosen for name in names_of))


def candidates(names: Iterable[str], suffix: str) -> dict[str, tuple[str, ...]]:
    """The models among `names`: the first or only file of each -> all its files.

    A projector of a vision model (`mmproj…`) is none.
    """
    models: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        if name.endswith(suffix) and "mmproj" not in _base(name).lower():
            splits = splits_of(name)
            models[splits[0]] = splits
    return models


def splits_of(name: str) -> tuple[str, ...]:
    """All parts of the file of which `name` is one; a file that is not split is its only part."""
    split = _SPLIT.fullmatch(name)
    if split is None:
        return (name,)
    count, stem, suffix = int(split["count"]), split["stem"], split["suffix"]
    return tuple(f"{stem}-{i:05}-of-{count:05}{suffix}" for i in range(1, count + 1))


def stem_of(name: str) -> str:
    """A file's name without folders, ending and its place among the splits."""
    base = _base(name)
    split = _SPLIT.fullmatch(base)
    return split["stem"] if split else base.rpartition(".")[0]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _parts(wanted: str, models: dict[str, tuple[str, ...]]) -> list[str]:
    """A file's name may have spaces, so they part names only where it would be none otherwise."""
    parts: list[str] = []
    for part in filter(None, map(str.strip, wanted.split(";"))):
        parts += [part] if _named(part, models) else part.split()
    return parts


def _named(part: str, models: dict[str, tuple[str, ...]]) -> list[str]:
    """The candidate of which `part` is a file, by its path or by its name alone."""
    splits = splits_of(part)
    if splits[0] in models:
        return [splits[0]]
    return [name for name in models if "/" in name and _base(name) == splits[0]]


def _one(part: str, models: dict[str, tuple[str, ...]], where: str, suffix: str) -> tuple[str, ...]:
    if named := _named(part, models):
        found = named
    elif any(char in part for char in "*?["):
        found = [name for name, files in models.items() if _fits(part.lower(), files)]
    else:
        found = _by_quant(part, list(models))
    return _only(found, part, models, where, suffix)


def _fits(pattern: str, files: tuple[str, ...]) -> bool:
    texts = [text.lower() for file in files for text in (file, _base(file))]
    return any(fnmatchcase(text, pattern) for text in texts)


def _by_quant(part: str, models: list[str]) -> list[str]:
    """Those of the first quantisation that there is, of those that `part` stands for."""
    labels: tuple[str, ...] = BY_BITS.get(part, ())
    if not labels and _QUANT.fullmatch(part):
        labels = (part, f"{part}_M")  # as llama.cpp has it, Q4_K is short for Q4_K_M
    for label in labels:
        if found := [name for name in models if _has_label(name, label)]:
            return found
    return []


def _has_label(name: str, label: str) -> bool:
    """Q4_K is no label of `x-Q4_K_M`. Some write Q4K for Q4_K; some name a folder by it."""
    text = f"{name.rpartition('/')[0]}/{stem_of(name)}"
    letters = "_?".join(map(re.escape, label.replace("_", "")))
    return re.search(rf"(?<![a-z0-9]){letters}(?![a-z0-9_])", text, re.IGNORECASE) is not None


def _only(
    found: list[str],
    part: str,
    models: dict[str, tuple[str, ...]],
    where: str,
    suffix: str,
) -> tuple[str, ...]:
    if len(found) == 1:
        return models[found[0]]
    kind = suffix.removeprefix(".").upper()
    which = f"say which {kind} file with -f FILE{suffix}."
    if found and part:
        raise LoadError(f"{part!r} fits {_listed(found)} of {where}; {which}")
    if not models:
        raise LoadError(f"{where} has no {kind} file to serve{_but(part)}; choose another model.")
    if not part:
        raise LoadError(f"{where} has {_listed(found)}; {which}")
    raise LoadError(f"{where} has no file{_that(part, suffix)}; it has {_listed(list(models))}.")


def _but(part: str) -> str:
    return f", so not {part}" if part else ""


def _that(part: str, suffix: str) -> str:
    return f" {part}" if part.endswith(suffix) else f" that {part!r} fits"


def _listed(names: list[str]) -> str:
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_LISTED])} and {len(names) - _MOST_LISTED} more"
