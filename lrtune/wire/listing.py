"""A list of jobs, as it travels."""

from lrtune.wire.results import Job, Page, Result


class UnreadableEntry(Result):
    """A job whose row cannot be read, why, and what can be done about it."""

    id: str
    owner: str
    words: str


class JobPage(Page[Job]):
    """Some jobs, and an opaque cursor to the next ones, or null; `unreadable` are those whose rows cannot be read."""

    unreadable: list[UnreadableEntry] = []
