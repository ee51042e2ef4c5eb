"""More text from a network that was trained on text."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm import config
from jaxlstm.errors import UserError
from jaxlstm.tasks.characters import Vocabulary
from jaxlstm.training import sampling
from jaxlstm.training.restore import trained


class Written(NamedTuple):
    """What a trained network wrote.

    Args:
        prompt: what it read first.
        text: what it wrote after it.
        unknown: the characters of the prompt that its text has not; each was read as unknown.
    """

    prompt: str
    text: str
    unknown: str


def write(
    folder: str | Path,
    *,
    prompt: str | None = None,
    characters: int | None = None,
    temperature: float | None = None,
    draw: int = 0,
    seed: int | None = None,
) -> Written:
    """Let the network of a run write, as its latest checkpoint has it.

    The text itself need not be there any more: the run has kept its characters.

    Args:
        folder: the run of a training on text.
        prompt: what the network reads first; that of the run's `[sample]` if None, or its default.
        characters: how many it writes; as above.
        temperature: what the logits are divided by: below 1 is more cautious; as above.
        draw: another number is another throw of the dice: the same one writes the same again.
        seed: which network of a run with several seeds; the first if None.

    Returns:
        The text.

    Raises:
        UserError: when the folder is no training on text, has no checkpoint or no such seed, or a
            value is out of range.
    """
    given = {"prompt": prompt, "characters": characters, "temperature": temperature}
    overrides = [(f"sample.{key}", str(value)) for key, value in given.items() if value is not None]
    try:
        found = trained(folder, overrides)
    except UserError as error:
        line = str(error)
        raise UserError(
            line.replace("--sample.", "--", 1)
            if line.startswith("--sample.")
            else f"sample: {line}"
        ) from None
    if found.symbols is None:
        kind = found.experiment.task.__struct_config__.tag
        raise UserError(f"sample: expected a run that was trained on text, got one on {kind}")
    params, vocabulary = found.params(seed), Vocabulary(found.symbols)
    if not 0 <= draw < 2**31:
        raise UserError(f"--draw: expected int >= 0 and < 2^31, got {draw}")
    sample = found.experiment.sample or config.Sample()
    heard = jnp.asarray(vocabulary.encode(sample.prompt))
    speak = jax.jit(sampling.build(found.network, sample.characters))
    spoken = speak(params, jax.random.key(draw), heard, jnp.float32(sample.temperature))
    unknown = sampling.unknown(sample.prompt, found.symbols)
    return Written(sample.prompt, vocabulary.decode(spoken), unknown)
