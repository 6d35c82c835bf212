"""Questions put to a library before it is used: whether it accepts what the chain does, and nothing else."""

from collections.abc import Callable, Sequence

import attrs

from supervm.crypto.provider import UnfitLibrary


@attrs.frozen
class Question:
    """One signature, and whether the chain accepts it. Key and signature have their suite's lengths."""

    what: str
    right: bool
    public_key: bytes
    message: bytes
    signature: bytes


Answers = Callable[[Sequence[Question]], Sequence[bool]]


def put(questions: Sequence[Question], library: str, answers: Answers, *, lanes: int = 1) -> None:
    """Raise `UnfitLibrary` unless all are answered rightly, in each lane of a library that takes many.

    The first question must be one with a right signature.
    """
    assert questions[0].right
    for before in range(lanes):
        asked = [questions[0]] * before + list(questions)
        for question, found in zip(asked, answers(asked), strict=True):
            if found is not question.right:
                raise UnfitLibrary(f"{library} {'accepts' if found else 'refuses'} {question.what}")
