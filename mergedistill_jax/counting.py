"""Numbers with their units as they are printed: `1 teacher`, `1,200 tokens`, `35.0 kB`."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts, in the singular or the plural."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_bytes(size: float) -> str:
    """A size in the largest unit of 1000 bytes that leaves at least 1 of it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.1f} {unit}" if unit != "bytes" else counted(int(size), "byte")
        size /= 1000
    return f"{size:,.1f} TB"
