"""Bars: the IoU of every class under every row of a table, classes in columns by fold."""
import cv2
import numpy as np

from util.compare.groups import Group
from util.compare.tables import Table

GREY = (150, 150, 150)  # RGB, the baseline's
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
           (227, 119, 194), (188, 189, 34), (23, 190, 207))
_INK, _RULE = (0, 0, 0), (215, 215, 215)
_BAR, _GAP, _SCALE = 16, 12, 3           # px: height of a bar, space between classes, length of one percent
_MARGIN, _LINE, _VALUE = 16, 26, 120     # px: round the picture, height of a line of text, room for a bar's value
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.5


def bars(table: Table, groups: list[Group]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of groups tested by one protocol.

    A bar is as long as its IoU, 0 to 100; where the table has a baseline its bars are grey, the others' numbers say by
    how much they differ from it, and a line carries its IoU across them.
    """
    classes = _classes_by_fold(groups)
    colours = _colours(table, groups)
    names = {c: name for group in reversed(groups) for r in group.results for c, name in r.names.items()}
    left = max(text_width(names[c]) for column in classes.values() for c in column) + 10
    width = left + 100 * _SCALE + _VALUE
    height = _GAP + _BAR * len(groups)
    rows = max(len(column) for column in classes.values())
    labels = [_label(table, group, groups) for group in groups]
    title = f"{table.dataset}, {groups[0].first.protocol}: IoU by unseen class, 0 to 100"
    top = _MARGIN + _LINE * (len(groups) + 2)
    across = max(len(classes) * width, 30 + max(map(text_width, (title, *labels))))
    picture = np.full((top + rows * height + _MARGIN, 2 * _MARGIN + across, 3), 255, np.uint8)
    write_text(picture, title, _MARGIN, _MARGIN + 14)
    for k, (label, colour) in enumerate(zip(labels, colours), 1):
        y = _MARGIN + k * _LINE
        cv2.rectangle(picture, (_MARGIN, y + 2), (_MARGIN + 20, y + 15), colour, -1)
        write_text(picture, label, _MARGIN + 30, y + 14)
    for k, (fold, column) in enumerate(classes.items()):
        x = _MARGIN + k * width
        write_text(picture, f"fold {fold}", x + left, top - 8)
        for percent in (0, 25, 50, 75, 100):
            at = x + left + percent * _SCALE
            cv2.line(picture, (at, top), (at, top + len(column) * height), _RULE, 1)
        for row, class_id in enumerate(column):
            y = top + row * height + _GAP // 2
            write_text(picture, names[class_id], x, y + _BAR * len(groups) // 2 + 5)
            _class_bars(picture, x + left, y, fold, class_id, table, groups, colours)
    return picture


def _class_bars(picture, zero: int, y: int, fold: int, class_id: int, table: Table, groups: list[Group],
                colours: list[tuple[int, int, int]]) -> None:
    """Every group's bar from ``zero`` on to the right, with its value, below each other from ``y`` on."""
    for k, (group, colour) in enumerate(zip(groups, colours)):
        iou = group.per_class().get(fold, {}).get(class_id)
        if iou is None:
            continue
        end, down = zero + round(iou * _SCALE), y + k * _BAR
        picture[down + 1:down + _BAR - 1, zero:end] = colour
        text, other = f"{iou:.1f}", table.baseline_of(group)
        if other is not None and group.first.arch != table.baseline:
            reference = other.per_class()[fold][class_id]
            text += f" ({iou - reference:+.1f})"
            at = zero + round(reference * _SCALE)
            cv2.line(picture, (at, down), (at, down + _BAR - 1), _INK, 1)
            end = max(end, at)
        write_text(picture, text, end + 5, down + _BAR - 3, 0.42)


def _classes_by_fold(groups: list[Group]) -> dict[int, list[int]]:
    """{fold: class ids in order}, of all groups."""
    together: dict[int, set[int]] = {}
    for group in groups:
        for fold, classes in group.per_class().items():
            together.setdefault(fold, set()).update(classes)
    return {fold: sorted(together[fold]) for fold in sorted(together)}


def _colours(table: Table, groups: list[Group]) -> list[tuple[int, int, int]]:
    others = (COLOURS[k % len(COLOURS)] for k in range(len(groups)))
    return [GREY if group.first.arch == table.baseline else next(others) for group in groups]


def _label(table: Table, group: Group, groups: list[Group]) -> str:
    return (name_among(groups, group) + (" (baseline)" if group.first.arch == table.baseline else "")
            + (", partial" if group.partial else "") + f": mean {group.mean():.1f}")


def name_among(groups: list[Group], group: Group) -> str:
    """The group's arch, with its selection where another of the groups has that arch too."""
    alike = [g for g in groups if g.first.arch == group.first.arch]
    return group.first.arch + (f", selected by {group.first.selection}" if len(alike) > 1 else "")


def text_width(text: str) -> int:
    """In pixels, at the size that :func:`write_text` has unless told."""
    return cv2.getTextSize(text, _FONT, _SIZE, 1)[0][0]


def write_text(picture: np.ndarray, text: str, x: int, y: int, size: float = _SIZE) -> None:
    """Write on a (H, W, 3) uint8 picture, from ``x`` on, above ``y``."""
    cv2.putText(picture, text, (x, y), _FONT, size, _INK, 1, cv2.LINE_AA)
