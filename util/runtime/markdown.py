"""Markdown tables, for all reports."""


def markdown_table(heads: list, rows: list[list]) -> str:
    """Format a table, the first column to the left, the others to the right; no newline at the end."""
    def line(cells: list) -> str:
        return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
    return "\n".join([line(heads), "|---|" + "---:|" * (len(heads) - 1), *map(line, rows)])
