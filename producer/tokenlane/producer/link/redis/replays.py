"""What is asked of a request's worker: to publish again all that has not come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Question:
    """Asked of one worker's attempt, again every `every_s` until it is answered. All times are the loop's."""

    worker: str
    attempt: int
    every_s: float
    due_at: float = 0
    first_sent_at: float | None = None

    def sent(self, now: float) -> None:
        """It was sent, for the first time or again."""
        if self.first_sent_at is None:
            self.first_sent_at = now


class Replays:
    """The question of one request, if it has one."""

    def __init__(self) -> None:
        self._question: Question | None = None

    @property
    def pending(self) -> bool:
        return self._question is not None

    def ask(self, worker: str, attempt: int, every_s: float) -> None:
        """Have it asked of a worker, if one is known, until it is answered."""
        if not worker:
            return
        if self._question is None or (self._question.worker, self._question.attempt) != (worker, attempt):
            self._question = Question(worker, attempt, every_s)
        self._question.every_s = every_s

    def answered(self) -> None:
        """Something has come."""
        self._question = None

    def due(self, now: float) -> Question | None:
        """What is to be sent now, if anything; it is due again later."""
        question = self._question
        if question is None or question.due_at > now:
            return None
        question.due_at = now + question.every_s
        return question

    def unanswered(self, now: float, patience_s: float) -> bool:
        """Whether it was first asked that long ago."""
        question = self._question
        return (
            question is not None and question.first_sent_at is not None and now - question.first_sent_at >= patience_s
        )
