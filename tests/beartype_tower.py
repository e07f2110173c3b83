"""beartype with Python's numeric tower: where a float is asked for, an int will do (PEP 484)."""

from beartype import BeartypeConf, beartype

tower = beartype(conf=BeartypeConf(is_pep484_tower=True))
