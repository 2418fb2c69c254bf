"""The splits of the user's own clips: what the table says of them, and what is drawn from the seed.

A test part is held out and never touched. Everything else is development, which is cross-validated: each clip is scored
by a model that has not seen it, which fusion, calibration and the choice of C need. So a given *validation* part stays
whole, as one fold of its own, and the training part is cut into further folds; the final model learns from both.
Without a test part, the validation part is the one that is held out.

What is not given is drawn: without folds, four stratified group folds; without a test part, a fifth of the clips; with
folds but no test part, the last fold is held out, as the paper does with ESC-50.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from soundstack.datasets.clips import Clip
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST, fold_order

#: What stands for the fold of a validation clip until its number is known.
VALIDATION = "validation"
FOLDS = 4
TRAIN_WORDS = {"train", "training"}
#: The development part; beside a training part, it is what others call validation (train, dev, test).
DEVEL_WORDS = {"devel", "dev", "development"}
VALIDATION_WORDS = {"val", "valid", "validation"}
TEST_WORDS = {"test", "testing", "eval", "evaluation"}
WORDS = TRAIN_WORDS | DEVEL_WORDS | VALIDATION_WORDS | TEST_WORDS
_FOLD = re.compile(r"(?:fold[\s_-]*)?([0-9]{1,9})(?:[.,]0+)?")  # 1, 1.0, 1,0, fold1, fold 1


def given(rows: Sequence[Mapping[str, str]], where: Sequence[str]) -> tuple[list[str], list[str]]:
    """The fold that the columns ``fold`` and ``split`` give each row, and what was understood of them, in words.

    Folds are ``"1"``, ``"2"``, ..., ``"test"``, ``"validation"``, or ``""`` where one has to be drawn. Those that are
    counted from 0 without gaps are counted from 1 here.

    Raises:
        DataError: A word is not known, or contradicts another, with its row (``where``).
    """
    splits = [_split(row, place) for row, place in zip(rows, where, strict=True)]
    words = set(splits)
    validation = VALIDATION_WORDS | (DEVEL_WORDS if words & TRAIN_WORDS else set())
    if words & TRAIN_WORDS and words & DEVEL_WORDS and words & VALIDATION_WORDS:
        which = ", ".join(map(repr, sorted(words & (TRAIN_WORDS | validation))))
        raise DataError(f"The splits {which} are one too many: write train, val and test, and no other.")
    folds = []
    for row, split, place in zip(rows, splits, where, strict=True):
        if not split and words & validation:
            raise DataError(f"{place}: the split is empty, but others are train and validation; write one of them.")
        folds.append(_fold(row.get("fold", "").casefold(), split, split in validation, place))
    numbers = {int(fold) for fold in folds if fold.isdecimal()}
    said = []
    if words - {""}:
        said.append(f"{', '.join(sorted(words - {''}, key=_in_order))} as given")
    if 0 in numbers:
        if numbers != set(range(len(numbers))) or len(numbers) < 2:
            place = where[folds.index("0")]
            raise DataError(f"{place}: fold '0' is not known; count folds from 1, or from 0 without gaps.")
        folds = [str(int(fold) + 1) if fold.isdecimal() else fold for fold in folds]
        said.append(f"folds 0 to {max(numbers)} as given, called 1 to {max(numbers) + 1} here")
    elif numbers:
        which = f"folds {', '.join(fold_order(map(str, numbers)))}" if len(numbers) <= 10 else f"{len(numbers)} folds"
        said.append(f"{which} as given")
    return folds, said


def _in_order(word: str) -> tuple[int, str]:
    kinds = (TRAIN_WORDS, DEVEL_WORDS, VALIDATION_WORDS, TEST_WORDS)
    return next(place for place, kind in enumerate(kinds) if word in kind), word


def _split(row: Mapping[str, str], place: str) -> str:
    word = row.get("split", "").casefold()
    if word and word not in WORDS:
        raise DataError(f"{place}: split {word!r} is not known; write train, val or test.")
    return word


def _fold(fold: str, split: str, is_validation: bool, place: str) -> str:
    if fold in TEST_WORDS and split and split not in TEST_WORDS:
        raise DataError(f"{place}: the fold says test, the split says {split!r}.")
    if fold in TEST_WORDS or split in TEST_WORDS:
        return TEST
    number = _FOLD.fullmatch(fold)
    if fold and not number:
        raise DataError(f"{place}: fold {fold!r} is not known; write 1, 2, 3, ... or test.")
    if is_validation:
        if fold:
            raise DataError(
                f"{place}: the split says {split!r}, the fold {fold!r}; validation is a fold of its own: leave the "
                "fold empty, or remove the column split to have the folds alone."
            )
        return VALIDATION
    return str(int(number[1])) if number else ""


def complete(clips: list[Clip], seed: int, notes: list[str], place: Mapping[str, str]) -> list[Clip]:
    """Number the validation part, and draw the folds and the test part that are not given; ``notes`` says so.

    Raises:
        DataError: Some clips have folds and others none, or a class is too small to split.
    """
    named = {clip.fold for clip in clips}
    undecided = [clip for clip in clips if not clip.fold]
    folds = named - {"", TEST, VALIDATION}
    if undecided and folds:
        first = undecided[0].id
        raise DataError(f"{place[first]}: {first!r} has no fold, but others have: give all development clips one.")
    if VALIDATION in named and TEST in named:
        own = str(max(map(int, folds)) + 1) if folds else str(FOLDS)
        clips = _renamed(clips, VALIDATION, own)
        drawn = _drawn(undecided, list(map(str, range(1, FOLDS))), seed)
        cut = f"; the training part was cut into {FOLDS - 1} stratified group folds with seed {seed}" if drawn else ""
        notes.append(
            f"The validation part is fold {own}{cut}. Each development clip is scored by a model that has not seen it, "
            "and the final model learns from all of them; the test part is never touched."
        )
        return [replace(clip, fold=drawn.get(clip.id, clip.fold)) for clip in clips]
    if VALIDATION in named:
        notes.append("No test clips are marked: the validation part is held out as the test part.")
        clips = _renamed(clips, VALIDATION, TEST)
    has_test = bool(named & {TEST, VALIDATION})
    if undecided:
        names = [*map(str, range(1, FOLDS + 1)), *([] if has_test else [TEST])]
        drawn = _drawn(undecided, names, seed)
        both = "" if has_test else " and a held-out test part"
        notes.append(f"{FOLDS} stratified group folds{both} were drawn with seed {seed}.")
        return [replace(clip, fold=drawn.get(clip.id, clip.fold)) for clip in clips]
    if not has_test and len(folds) > 2:
        last = max(folds, key=int)
        notes.append(f"The table marks no test clips: fold {last} is held out as the test part.")
        return _renamed(clips, last, TEST)
    return clips


def _renamed(clips: Sequence[Clip], fold: str, other: str) -> list[Clip]:
    return [replace(clip, fold=other) if clip.fold == fold else clip for clip in clips]


def _drawn(clips: Sequence[Clip], names: Sequence[str], seed: int) -> dict[str, str]:
    """Spread clips over stratified parts of these names, whole groups together; the part of each clip by its id."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups_of: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        groups_of[clip.label].append(clip.group)
    parts = len(names)
    for label, groups in sorted(groups_of.items()):
        if (several := len(set(groups))) < parts:
            raise DataError(
                f"Class {label!r} is too small to split: {len(groups)} clips in {several} groups, and {parts} parts "
                f"need at least {parts} groups of every class. Add clips of it, leave it out, or give your own folds."
            )
    if not clips:
        return {}
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    split = splitter.split([0] * len(clips), [clip.label for clip in clips], [clip.group for clip in clips])
    return {clips[position].id: names[part] for part, (_, held_out) in enumerate(split) for position in held_out}
