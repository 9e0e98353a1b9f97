"""Messages -> text, token ids and loss mask: the only chat rendering in the product.

Training targets are built from tokens: the prompt is rendered with the model's own template, then the teacher's
raw text and an explicit stop token are appended. Rendering the whole conversation instead would let templates
such as R1-Distill's delete the reasoning without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from distill.base.errors import FileError, InputError
from distill.base.records import Message

PROBE = "Hello world:\n\n  x = 12, \\frac{1}{2} \u00e9"
OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Target:
    """One training example as tokens. `trained[i]` says whether token i is in the loss (as a label)."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Parts:
    """A completion taken apart. `thought`: a think tag was there; `closed`: the thought came to its end."""

    reasoning: str
    answer: str
    thought: bool
    closed: bool


def split_thought(text: str, opened: bool = False) -> Parts:
    """Take a completion apart at its think tags.

    Args:
        opened: the prompt already ended in `<think>` (R1-Distill's template does), so the text starts inside.

    All three forms are handled: `<think>..</think>answer`, `..</think>answer` (tag in the prompt), and a thought
    that was cut before `</think>`, whose answer is empty.
    """
    head, close, tail = text.partition(CLOSE)
    if close:
        before, _, inside = head.rpartition(OPEN) if OPEN in head else ("", "", head)
        return Parts((before + inside).strip(), tail.strip(), True, True)
    if OPEN in text or opened:
        return Parts(text.replace(OPEN, "", 1).strip(), "", True, False)
    return Parts("", text.strip(), False, True)


def join_thought(reasoning: str, answer: str, thought: bool = True) -> str:
    """The text that a student is trained to write: the inverse of `split_thought`."""
    return f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{answer}" if thought else answer


def load_tokenizer(model: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a folder or hub name.

    Raises:
        FileError: there is none to load.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(model)
    if folder.is_dir() and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise FileError(
            f"{model}: the folder holds no tokenizer; expected tokenizer.json and tokenizer_config.json in it"
        )
    if not folder.is_dir() and (folder.is_absolute() or str(model).startswith(".") or str(model).count("/") > 1):
        raise FileError(f"{model}: no such folder; expected a model's folder or a hub name")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
        if not _reads_as_stored(tokenizer, model, revision):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(model, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(f"{model}: its tokenizer cannot be loaded ({reason}); give a folder or a hub name") from None
    return tokenizer


def _reads_as_stored(tokenizer: Any, model: str | Path, revision: str | None) -> bool:
    """Whether a tokenizer gives the ids that its own tokenizer.json gives.

    transformers 5 rebuilds the class that tokenizer_config.json names: R1-Distill-Qwen, a byte-level BPE that is
    called LlamaTokenizerFast there, comes back without its spaces.
    """
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    stored = cached_file(model, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    if stored is None:
        return True
    ids: list[int] = Tokenizer.from_file(stored).encode(PROBE, add_special_tokens=False).ids
    found: list[int] = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    return ids == found


def prompt_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The prompt as the model sees it, ending where its own turn begins."""
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return text


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of `prompt_text`; the template writes all special tokens itself."""
    ids: list[int] = tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"]
    return ids


def stop_token_id(tokenizer: Any) -> int:
    """The token that ends the assistant's turn: the one that the template writes there, else EOS.

    Base models' EOS (`<|endoftext|>`) often is not the template's (`<|im_end|>`).
    """
    probe = "distillprobe"
    turns = [{"role": "user", "content": probe}, {"role": "assistant", "content": probe}]
    rendered: str = tokenizer.apply_chat_template(turns, tokenize=False)
    tail: list[int] = tokenizer(rendered[rendered.rindex(probe) + len(probe) :], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    first = next((token for token in tail if token in special), tokenizer.eos_token_id)
    if first is None:
        raise InputError("the tokenizer has no EOS token and its template ends no turn; set eos_token")
    return int(first)


@dataclass(frozen=True)
class Marks:
    """What only the template may write. `stop`: ends the assistant's turn; `tokens`: control tokens, as text."""

    stop: int
    tokens: tuple[str, ...]


def turn_marks(tokenizer: Any) -> Marks:
    """A tokenizer's stop and control tokens: those it calls special and those its template writes; no think tags.

    R1-Distill's and others' turn tokens are not called special, so the template is asked too. What it writes beside
    them (line ends and words, which some tokenizers have added as well) is plain text.
    """
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False) + prompt_text(tokenizer, turns[:1])
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    written = {token for token in added if token.startswith(("<", "[")) and token in rendered}
    found = {*tokenizer.all_special_tokens, *written, *(token for token, special in added.items() if special)}
    return Marks(stop_token_id(tokenizer), tuple(sorted(found - {OPEN, CLOSE, ""})))


def training_target(tokenizer: Any, messages: Sequence[Message], marks: Marks | None = None) -> Target:
    """Tokens and mask of a conversation whose last message is the teacher's.

    Args:
        marks: the tokenizer's `turn_marks`, for callers with many conversations.

    Raises:
        InputError: the last message is not the assistant's, a message's text would become a control token, the
            template opens a thought that the text never closes, or decoding does not give the text back.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError("a training example must end with an assistant message")
    marks = marks or turn_marks(tokenizer)
    for message in messages:
        if token := next((token for token in marks.tokens if token in message["content"]), None):
            raise InputError(
                f"the {message['role']}'s text holds {token!r}, which the tokenizer would read as a control token "
                "and not as text; let a filter of the kept stage reject such traces"
            )
    text = messages[-1]["content"]
    rendered = prompt_text(tokenizer, messages[:-1])
    if rendered.rstrip().endswith(OPEN) and CLOSE not in text:
        raise InputError(
            f"the template opens {OPEN} and the teacher's text has no {CLOSE}, so the student would learn thoughts "
            "that never close; reject such traces (kept.complete.require_reasoning), or give the base a chat template "
            f"that does not open {OPEN}"
        )
    if rendered.rstrip().endswith(OPEN) and text.startswith(OPEN):
        # The template has opened the thought already; a second tag would be trained as text.
        text = text[len(OPEN) :].lstrip("\n") if rendered.endswith("\n") else text[len(OPEN) :]
    before: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    completion: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(completion, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        raise InputError(
            f"the tokenizer does not give a teacher's text back: {text[:60]!r} became {back[:60]!r}. "
            "Use the student's own tokenizer, without normalisation"
        )
    ids = [*before, *completion, marks.stop]
    return Target(ids, [False] * len(before) + [True] * (len(completion) + 1))


def tokenizer_problems(tokenizer: Any, name: str, *, training: bool) -> list[str]:
    """What is wrong with a tokenizer and its template, one sentence each; empty when all is well.

    Args:
        training: also ask for what training needs (a stop token that is not the padding).
    """
    if not getattr(tokenizer, "chat_template", None):
        return [f"{name}: the tokenizer has no chat template; add chat_template.jinja to the folder"]
    try:
        rendered = prompt_text(tokenizer, [{"role": "user", "content": "2 + 2?"}])
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        return [f"{name}: the chat template fails on a plain question: {error}"]
    problems = []
    if "2 + 2?" not in rendered:
        problems.append(f"{name}: the chat template drops the user's question; it rendered {rendered[:80]!r}")
    if training and tokenizer.pad_token_id is not None and tokenizer.pad_token_id == stop_token_id(tokenizer):
        problems.append(
            f"{name}: the padding token {tokenizer.pad_token!r} is also the stop token, so the student would never "
            "learn to stop; set pad_token to a token of its own (Qwen: <|endoftext|>, Llama: <|finetune_right_pad_id|>)"
        )
    return problems + (_dropped_reasoning(tokenizer, name) if training else [])


def _dropped_reasoning(tokenizer: Any, name: str) -> list[str]:
    """Templates that delete the thought break every later use of the student in a conversation's history."""
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": f"{OPEN}\ntwo and two\n{CLOSE}\n\nfour"},
    ]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    if "two and two" in rendered:
        return []
    return [
        f"{name}: the chat template drops the reasoning of assistant turns; it rendered {rendered[-60:]!r}. "
        "Use a template that keeps it (the *-training templates of TRL, or Qwen2.5's)"
    ]
