"""Draw docs/architecture.png from the imports: a box a package, with its lines; arrows point to what is imported.

    python docs/draw_architecture.py

A package stands one floor above the highest that it imports. An arrow is left out where others already lead there.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src" / "soundstack"
PICTURE = PROJECT / "docs" / "architecture.png"
sys.path.insert(0, str(PROJECT / "src"))

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import FancyArrowPatch  # noqa: E402
from PIL import Image  # noqa: E402

from soundstack.utils.code_versions import imports  # noqa: E402

Arrows = dict[str, frozenset[str]]


def package_arrows() -> Arrows:
    """Return the packages and those that each imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports().items():
        package = module.partition(".")[0]
        found[package] |= {target.partition(".")[0] for target in targets} - {package}
    return {package: frozenset(targets) for package, targets in found.items()}


def floors_of(arrows: Arrows) -> dict[str, int]:
    """Return the floor of every package: 1 for what imports none, else one above the highest that it imports.

    Raises:
        graphlib.CycleError: Packages import one another in a circle.
    """
    floors: dict[str, int] = {}
    for package in TopologicalSorter(arrows).static_order():
        floors[package] = 1 + max((floors[target] for target in arrows[package]), default=0)
    return floors


def below(package: str, arrows: Arrows) -> set[str]:
    """Return all packages that one leads to."""
    return set(arrows[package]).union(*(below(target, arrows) for target in arrows[package]))


def text(arrows: Arrows) -> str:
    """Return the arrows as one line; the picture carries it, so that a test can tell an outdated one."""
    return "; ".join(f"{package} > {' '.join(sorted(arrows[package]))}" for package in sorted(arrows))


def drawn(picture: Path = PICTURE) -> str:
    """Return the arrows of the picture as it is."""
    with Image.open(picture) as image:
        return str(image.info.get("Description"))


def figure(arrows: Arrows) -> Figure:
    """Draw the packages floor by floor."""
    floors: dict[int, list[str]] = defaultdict(list)
    for package, floor in sorted(floors_of(arrows).items()):
        floors[floor].append(package)
    picture = Figure(figsize=(9.6, 1.05 * len(floors)), layout="constrained")
    axes = picture.subplots()
    axes.set(xlim=(0, 1), ylim=(0.4, len(floors) + 0.6))
    axes.axis("off")
    places = {
        package: ((number + 0.5) / len(row), height)
        for height, row in floors.items()
        for number, package in enumerate(row)
    }
    boxes = {}
    for package, (x, y) in places.items():
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (SOURCE / package).rglob("*.py"))
        boxes[package] = axes.text(x, y, f"{package}\n{lines:,} lines", ha="center", va="center", fontsize=9, zorder=3,
                  bbox={"boxstyle": "round,pad=0.4", "facecolor": "#e8eef7", "edgecolor": "#4a6fa5"})  # fmt: skip
    picture.draw_without_rendering()  # only then is known how large the boxes are
    for package, targets in arrows.items():
        for target in targets:
            if not any(target in below(other, arrows) for other in targets - {target}):
                ends = {"patchA": boxes[package].get_bbox_patch(), "patchB": boxes[target].get_bbox_patch()}
                axes.add_patch(
                    FancyArrowPatch(
                        places[package], places[target], arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=1,
                        color="#6f6f6f", linewidth=0.9, zorder=1, **ends,
                    )
                )  # fmt: skip
    return picture


if __name__ == "__main__":
    found = package_arrows()
    figure(found).savefig(PICTURE, dpi=110, metadata={"Description": text(found)})
    print(f"{PICTURE}: {len(found)} packages, {max(floors_of(found).values())} floors, "
          f"{sum(map(len, found.values()))} arrows")  # fmt: skip
