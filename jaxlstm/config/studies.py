"""A study: measurements on networks as they are, trained or not."""

from jaxlstm.config.base import Kind, Name, Seeds, check_seeds, seed_list


class Study(Kind, frozen=True, kw_only=True, tag="study"):
    """What every study has.

    Args:
        name: what the run folder is called after.
        question: what the study asks.
        expected: the result and the time to expect, in words.
        seeds: how many (0, 1, …), or a list of them.
    """

    name: Name
    question: str
    expected: str
    seeds: Seeds = 1

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return seed_list(self.seeds)
