"""Where sequences start in a file that does not say it."""

from __future__ import annotations

__all__ = ["check_cut", "tokens_to_a_sequence"]


def check_cut(single_sequence: bool | None, sequence_length: int | None, source: object) -> None:
    """Raise where both ways to say where sequences start are given, or an impossible one."""
    if single_sequence and sequence_length is not None:
        raise ValueError(
            f"{source}: sequence_length: expected it or single_sequence, got both; leave one out"
        )
    if sequence_length is not None and sequence_length < 1:
        raise ValueError(f"{source}: sequence_length: expected 1 or more, got {sequence_length}")


def tokens_to_a_sequence(
    n_tokens: int,
    single_sequence: bool | None,
    sequence_length: int | None,
    source: object,
    more: str = "",
) -> int:
    """Tokens in each sequence of a file that does not say where sequences start.

    Parameters
    ----------
    n_tokens : int
        Tokens in the file.
    single_sequence, sequence_length : bool, int, optional
        What the user says.
    source : path
    more : str
        Another remedy.

    Raises
    ------
    ValueError
        If neither is given, both are, or the length does not divide the tokens.
    """
    check_cut(single_sequence, sequence_length, source)
    if single_sequence:
        return n_tokens
    if sequence_length is None:
        raise ValueError(
            f"{source}: sequences: expected to know where they start among {n_tokens} tokens, "
            f"which the file does not say; {more}give single_sequence or sequence_length, on the "
            "command line --single-sequence or --sequence-length N"
        )
    if n_tokens % sequence_length:
        raise ValueError(
            f"{source}: sequence_length: expected a divisor of {n_tokens}, the tokens in the "
            f"file, got {sequence_length}; correct it, or write each sequence to a file"
        )
    return sequence_length
