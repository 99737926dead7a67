"""English and code that every installation has: Python's reference topics and the docstrings of its packages.

Sources are parsed, never imported. Text and tokens depend on the installed versions, so they are kept in the work
folder, and a run goes on with the text that it began with.
"""

import ast
import hashlib
import importlib.metadata
import pathlib
import pydoc_data.topics
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from examples.language_model import files
from examples.language_model.config import Config

PACKAGES = ("numpy", "scikit-learn", "scipy")
SKIPPED = {"dist-packages", "site-packages", "test", "tests"}
HELD_OUT = 10  # one document in so many
END = "<|end|>"  # after each document

Documents = dict[str, str]  # by name


class Batch(NamedTuple):
    """Windows of tokens `[batch, length]` and, for each place, the next token and whether it counts."""

    inputs: np.ndarray
    labels: np.ndarray
    where: np.ndarray


class Text(NamedTuple):
    """The tokenizer, and the tokens of all documents one after the other."""

    tokenizer: Tokenizer
    train: np.ndarray
    held_out: np.ndarray

    def fingerprint(self) -> str:
        return hashlib.sha256(self.train.tobytes() + self.held_out.tobytes()).hexdigest()[:16]


def batch_of(tokens: np.ndarray, config: Config, step: int) -> Batch:
    """What a run reads at a step: every window once in each epoch, in an order that depends on seed and epoch only.

    A run that is resumed at a step therefore reads what it would have read without the interruption.
    """
    windows = (len(tokens) - 1) // config.length
    in_epoch = windows // config.batch
    epoch, place = divmod(step, in_epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(windows)
    rows = order[place * config.batch : (place + 1) * config.batch]
    at = rows[:, None] * config.length + np.arange(config.length + 1)
    window = tokens[at].astype(np.int32)
    # The first token of a document is not to be guessed from the end of another one. Token 0 is END.
    return Batch(window[:, :-1], window[:, 1:], window[:, :-1] != 0)


def load(config: Config, folder: pathlib.Path) -> Text:
    """The text of the configuration, from the folder if it is there already."""
    folder = folder / f"text-{config.vocabulary}"
    tokenizer_file, tokens_file = folder / "tokenizer.json", folder / "tokens.npz"
    if not tokens_file.exists():  # the last file that is written
        documents = collect(config)
        tokenizer = train_tokenizer(documents.values(), config.vocabulary)
        parts = tokenize(documents, tokenizer)
        files.write(tokenizer_file, lambda path: tokenizer.save(str(path)))
        files.write(tokens_file, lambda path: np.savez(path, **parts))
        size = sum(map(len, documents.values()))
        print(f"{len(documents)} documents, {size / 1e6:.1f} million characters")
    with np.load(tokens_file) as parts:
        text = Text(Tokenizer.from_file(str(tokenizer_file)), parts["train"], parts["held_out"])
    entries = text.tokenizer.get_vocab_size()
    print(f"{len(text.train):,} training tokens, {len(text.held_out):,} held out; {entries:,} vocabulary entries")
    return text


def collect(config: Config) -> Documents:
    documents = {f"topic {name}": text for name, text in sorted(pydoc_data.topics.topics.items())}
    if not config.packages:
        return documents
    sources = sorted({**standard_library(), **installed()}.items())
    seen: set[str] = set()  # a docstring that stands in several places is kept in the first
    for name, path in tqdm(sources, desc="docstrings", unit="file", mininterval=1.0):
        new = [text for text in dict.fromkeys(docstrings(path)) if text not in seen]
        seen.update(new)
        if new:
            documents[name] = "\n\n".join(new)
    return documents


def standard_library() -> dict[str, pathlib.Path]:
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return {name.as_posix(): path for name, path in found if SKIPPED.isdisjoint(name.parts)}


def installed() -> dict[str, pathlib.Path]:
    found = {}
    for package in PACKAGES:
        try:
            listed = importlib.metadata.distribution(package).files or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        names = (name for name in listed if name.suffix == ".py" and SKIPPED.isdisjoint(name.parts))
        found |= {name.as_posix(): pathlib.Path(name.locate()) for name in names}
    return found


def docstrings(path: pathlib.Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # templates and code for other versions
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # every byte, so that there is no unknown token
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.token_to_id(END) != 0:
        raise RuntimeError(f"the tokenizer must give {END} the number 0")
    return tokenizer


def tokenize(documents: Documents, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Tokens of the documents to train on and of those held out, chosen by a checksum of their names."""
    parts: dict[str, list[int]] = {"train": [0], "held_out": [0]}
    for (name, _), encoding in zip(documents.items(), tokenizer.encode_batch(list(documents.values())), strict=True):
        part = parts["train" if zlib.crc32(name.encode()) % HELD_OUT else "held_out"]
        part += encoding.ids
        part.append(0)
    return {name: np.asarray(ids, np.uint16) for name, ids in parts.items()}


def unigram_loss(text: Text, vocabulary: int) -> float:
    """Nats per held-out token when only the tokens' frequencies are known: what a model must beat."""
    counts = 1 + np.bincount(text.train, minlength=vocabulary)
    return float(np.mean(np.log(counts.sum()) - np.log(counts[text.held_out])))
