"""Tables for Markdown."""


def table(heads: list[str], rows: list[list[str]]) -> str:
    """The first column to the left, numbers to the right; no newline at the end."""
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    return "\n".join([line(heads), "|---|" + "---:|" * (len(heads) - 1), *map(line, rows)])
