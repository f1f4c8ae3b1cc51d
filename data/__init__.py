import util.runtime  # noqa: F401  (its first lines come before all other imports)
