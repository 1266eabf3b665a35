"""`golf generate MODEL --prompt TEXT`: text that an artifact writes, as it is written."""

from __future__ import annotations

import argparse
import codecs
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from golf.base.errors import GolfError
from golf.base.main import printable

if TYPE_CHECKING:  # they load torch
    from golf.artifact.decode import Decoded
    from golf.models.generate import Sampling

__all__ = ["add_arguments", "run", "written"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf generate`."""
    parser.add_argument("model", type=Path, help="an artifact, artifacts/compress/model.golf")
    parser.add_argument("--prompt", default="", help="text that is continued (default: none, a new document)")
    parser.add_argument("--tokens", type=int, default=256, help="written at most; the end of the document ends it "
                        "earlier (default: %(default)s)")  # fmt: skip
    parser.add_argument("--temperature", type=float, default=0.8, help="below 1 makes likely tokens likelier; 0 always "
                        "takes the likeliest (default: %(default)s)")  # fmt: skip
    parser.add_argument("--top-p", type=float, default=0.95, help="draw among the fewest likeliest tokens that have "
                        "this probability together; 1 is all (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (default: %(default)s)")
    parser.add_argument("--window", type=int, default=256, help="keys of attention, the training length or less "
                        "(default: %(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the prompt and what follows it, token by token; ``GolfError`` for anything that does not fit."""
    if args.tokens < 0:
        raise GolfError(f"--tokens: found {args.tokens}, expected 0 or more")
    import torch

    from golf.artifact.decode import load_artifact
    from golf.models.generate import Sampling

    sampling = Sampling(args.temperature, args.top_p, args.seed, args.window)
    torch.set_num_threads(1)  # sums in one order whatever the machine's number of cores; one row gains nothing by more
    sys.stdout.write(printable(args.prompt))
    for piece in written(load_artifact(args.model), args.prompt, sampling, tokens=args.tokens):
        sys.stdout.write(printable(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def written(decoded: Decoded, prompt: str, sampling: Sampling, *, tokens: int) -> Iterator[str]:
    """Pieces of the text that follows ``prompt``, at most ``tokens`` tokens of it, up to the end of the document.

    Bytes that are no UTF-8 become U+FFFD. Raises ``GolfError`` for a prompt that cannot be coded.
    """
    import numpy as np

    from golf.data.tokenizer import Tokenizer
    from golf.models.generate import generate

    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise GolfError(f"--prompt: character {error.start} is no character of a text, expected UTF-8") from error
    tokenizer = Tokenizer(decoded.tokenizer_model, name="the artifact's tokenizer")
    bos, known = tokenizer.bos_id, [tokenizer.bos_id, *tokenizer.encode(prompt)]
    if tokenizer.vocab_size != decoded.vocab_size:
        raise GolfError(f"the artifact's tokenizer has {tokenizer.vocab_size} pieces, its model {decoded.vocab_size}")
    silent = [token for token, piece in enumerate(tokenizer.token_bytes) if not piece and token != bos]
    text, done = codecs.getincrementaldecoder("utf-8")(errors="replace"), len(tokenizer.decode(known))
    stream = generate(decoded.model, np.array(known, dtype=np.int64), sampling, never=silent)
    for token in itertools.islice(stream, tokens):
        if token == bos:
            break
        known.append(token)
        data = tokenizer.decode(known)  # of all tokens: a normalizing tokenizer's spaces depend on the one before
        yield text.decode(data[done:])
        done = len(data)
    yield text.decode(b"", final=True)
