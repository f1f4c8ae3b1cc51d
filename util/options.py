"""Options as flat names."""


def flat(values: dict, prefix: str = "") -> dict:
    """Nested options as {"train.lr": ...}."""
    out = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out
