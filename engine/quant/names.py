"""What in-situ quantisation calls its types. Torch-free: a name is checked before a model is there.

The names are mistral.rs'; registry.py has the format behind each.
"""

from engine.errors import InvalidInput

LEVELS = ("2", "3", "4", "5", "6", "8")  # bits
ISQ_NAMES = (
    *LEVELS,
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1"),
    *("Q2K", "Q3K", "Q4K", "Q5K", "Q6K", "Q8K"),
    *("HQQ8", "HQQ4", "FP8", "MXFP4"),
)
# those that an importance matrix makes better
IMATRIX_NAMES = ("2", "3", "4", "5", "6", "Q2K", "Q3K", "Q4K", "Q5K", "Q6K")


def isq_name(name: str) -> str:
    """The one of ISQ_NAMES that `name` is, in any case; `Q4_K` is Q4K.

    Raises InvalidInput, which lists the names.
    """
    known = name.upper().replace("_K", "K")
    if known not in ISQ_NAMES:
        listed = ", ".join(f"`{choice}`" for choice in ISQ_NAMES)
        raise InvalidInput(f"ISQ type {name} unknown, choose one of {listed}.", "isq_type")
    return known
