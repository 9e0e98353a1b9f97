"""Targets, plans, packed attention and the sliced head: each exact on its own."""

import errno
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import EMBEDDED, make_model
from train_cases import mixture, settings, sums, train
from transformers import AddedToken, AutoTokenizer, Gemma3Config, MambaConfig

from distill.base import chat
from distill.base.chat import training_target, turn_marks
from distill.base.errors import ConfigError, DiskFullError, FileError, InputError, shown
from distill.base.records import Example, Message, write_rows
from distill.train.batches import Pack, Plan, pack, to_batch
from distill.train.config import RandomModel, TrainConfig
from distill.train.loss import LossHead
from distill.train.models import Student, load_student, model_config
from distill.train.preflight import check
from distill.train.sft import learning_rate
from distill.train.tokens import Limits, Tokens, open_tokens, write_tokens

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(folder, tied=False)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("tokens")
    return tokens(folder, 12, Limits(256, 576))


def tokens(folder: Path, traces: int, limits: Limits) -> Tokens:
    write_rows(folder / "mixture.parquet", Example, sums(traces))
    write_tokens(folder / "tokens", AutoTokenizer.from_pretrained(EMBEDDED), folder / "mixture.parquet", limits)
    return open_tokens(folder / "tokens")


@pytest.fixture(scope="module")
def student(base: Path) -> Student:
    return load_student(settings(base), str(base), CPU)


def gradients(student: Student, data: Tokens, packs: list[Pack]) -> tuple[float, dict[str, Any]]:
    student.zero_grad()
    total = torch.zeros(())
    for item in packs:
        loss = student(to_batch(data, item, CPU))
        loss.backward()
        total += loss.detach()
    return float(total), {name: value.grad.clone() for name, value in student.named_parameters()}


def test_what_is_trained_is_the_teachers_text_and_the_stop_token_and_nothing_else(data: Tokens) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    for number, trace in enumerate(sums(12)):
        batch = to_batch(data, Pack((number,)), CPU)
        text = tokenizer.decode(batch.labels)
        assert text == trace.messages[-1]["content"] + "<|im_end|>"
        assert torch.equal(batch.ids[0, batch.before + 1], batch.labels)
        prompt = tokenizer.decode(batch.ids[0, : int(batch.before[0]) + 1])
        assert prompt.endswith("<|im_start|>assistant\n")


def test_packed_traces_give_the_loss_and_gradients_of_traces_alone(student: Student, data: Tokens) -> None:
    packed_loss, packed = gradients(student, data, [Pack(tuple(range(8)))])
    alone_loss, alone = gradients(student, data, [Pack((number,)) for number in range(8)])
    assert packed_loss == pytest.approx(alone_loss, rel=1e-6)
    for name, value in packed.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-5)


def test_the_student_computes_what_transformers_computes(student: Student, base: Path, data: Tokens) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(base)
    for number in range(3):
        batch = to_batch(data, Pack((number,)), CPU)
        labels = torch.full_like(batch.ids, -100)
        labels[0, batch.before + 1] = batch.labels
        expected = reference(input_ids=batch.ids, labels=labels).loss * len(batch.labels)
        assert float(student(batch).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_trace_changes_no_state_of_another_trace_in_its_pack(student: Student, data: Tokens) -> None:
    batch = to_batch(data, Pack((0, 1, 2)), CPU)
    changed = batch.ids.clone()
    second = slice(int(batch.traces.offsets[1]), int(batch.traces.offsets[2]))
    changed[0, second] = (changed[0, second] + 7) % 500

    def states(ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = student.model.model(
            input_ids=ids, position_ids=batch.positions, use_cache=False, traces=batch.traces
        ).last_hidden_state[0]
        return found

    with torch.no_grad():
        before, after = states(batch.ids), states(changed)
    assert not torch.equal(before[second], after[second])
    before[second] = after[second] = 0
    assert torch.equal(before, after)


def test_attention_refuses_what_it_would_leave_out(student: Student, data: Tokens) -> None:
    batch = to_batch(data, Pack((0,)), CPU)
    with pytest.raises(InputError, match="an attention mask"):
        student.model.model(
            input_ids=batch.ids, attention_mask=torch.ones(1, 1, batch.ids.shape[1], batch.ids.shape[1])
        )


@pytest.mark.parametrize("rows", [64, 1000])
def test_the_sliced_head_is_plain_cross_entropy(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.train.loss.SLICE_BYTES", {"cpu": rows * 4 * 300})
    torch.manual_seed(0)
    head = LossHead(torch.nn.Linear(32, 300, bias=False))
    hidden = torch.randn(333, 32, requires_grad=True)
    labels = torch.randint(0, 300, (333,))
    found = head(hidden, labels)
    found.backward()
    mine = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    plain = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    plain.backward()
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(mine, [hidden.grad, head.weight.grad], rtol=1e-5, atol=1e-5)


def test_recomputed_activations_give_the_same_gradients(student: Student, base: Path, data: Tokens) -> None:
    saving = load_student(settings(base, recompute=True), str(base), CPU)
    found = gradients(saving, data, [Pack((0, 1, 2))])
    expected = gradients(student, data, [Pack((0, 1, 2))])
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())


def test_every_trace_is_planned_once_an_epoch_whatever_the_workers(data: Tokens) -> None:
    for workers in (1, 2, 3):
        plans = [Plan(data, 3, 5, 100, 1000.0, seed=4, rank=rank, workers=workers) for rank in range(workers)]
        times = np.zeros(12, dtype=int)
        for steps in zip(*(plan.from_step(0) for plan in plans), strict=True):
            assert len({len(step.packs) for step in steps}) == 1
            here = [trace for step in steps for item in step.packs if not item.idle for trace in item.traces]
            assert sorted(here) == sorted(steps[0].traces)
            times[here] += 1
        assert (times == 3).all()


def test_the_plan_is_a_function_of_the_seed_and_needs_no_replay(data: Tokens) -> None:
    plan = Plan(data, 4, 5, 100, 1000.0, seed=1)
    steps = list(plan.from_step(0))
    assert list(Plan(data, 4, 5, 100, 1000.0, seed=1).from_step(7)) == steps[7:]
    assert [s.traces for s in Plan(data, 4, 5, 100, 1000.0, seed=2).from_step(0)] != [s.traces for s in steps]
    assert len({step.traces for step in steps}) == len(steps)
    assert {len(step.traces) for step in steps} == {4}


def test_packs_hold_their_capacity_and_are_balanced_by_arithmetic() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(100, 8000) for _ in range(200)]
    span = 4000.0
    packs = pack(range(200), lengths, 10_000, span, workers=4)
    assert len(packs) % 4 == 0
    assert len(packs) * 10_000 < 1.5 * sum(lengths)
    assert all(sum(lengths[trace] for trace in item.traces) <= 10_000 for item in packs)
    costs = [sum(lengths[t] * (1 + lengths[t] / span) for t in item.traces) for item in packs]
    for start in range(0, len(packs), 4):
        assert min(costs[start : start + 4]) > 0.75 * max(costs[start : start + 4])


def test_a_trace_over_the_capacity_goes_alone_and_an_idle_worker_stays_in_step() -> None:
    assert pack([0, 1], [500, 50], 100, 1e3, workers=1) == [Pack((0,)), Pack((1,))]
    assert pack([0], [50], 100, 1e3, workers=2) == [Pack((0,)), Pack((0,), idle=True)]


def test_an_idle_pack_adds_nothing(student: Student, data: Tokens) -> None:
    loss, found = gradients(student, data, [Pack((0,), idle=True)])
    assert loss == 0
    assert all(not value.any() for value in found.values())


def test_the_rate_warms_up_to_its_peak_and_ends_at_its_floor() -> None:
    config = TrainConfig(base="x/y", learning_rate=1.0, warmup_ratio=0.1, min_lr_ratio=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(TrainConfig(base="x/y", warmup_ratio=0.0), 0, 1) > 0


def test_over_long_traces_are_counted_not_cut(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"4 of 7 traces are longer than 70 tokens .* raise max_tokens"):
        train(settings(base, max_tokens=70), mixture(tmp_path / "m", sums(7)), tmp_path / "out")


def test_an_empty_mixture_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no examples, expected at least 1"):
        train(settings(base), mixture(tmp_path / "m", []), tmp_path / "out")


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model's embedding has 100 rows"):
        tokens(tmp_path, 2, Limits(256, 100))


def test_preflight_names_what_is_wrong_with_a_base(base: Path, tmp_path: Path) -> None:
    assert check(settings(base)) == []
    assert "no such folder" in check(settings(tmp_path / "nowhere"))[0]
    assert "holds no config.json" in check(settings(tmp_path))[0]
    assert "the model's window is 256" in check(settings(base, max_tokens=1000))[0]
    assert "set rope_theta too" in check(settings(base, window=1000, max_tokens=1000))[0]
    assert check(settings(base, window=1000, rope_theta=1e5, max_tokens=1000)) == []
    bare = tmp_path / "bare"
    make_model(bare)
    (bare / "chat_template.jinja").unlink()
    assert "no chat template" in check(settings(bare))[0]
    (bare / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert "drops the reasoning" in check(settings(bare))[0]
    random_base = RandomModel(tokenizer=str(EMBEDDED), max_position_embeddings=64)
    assert "window is 64" in check(TrainConfig(base=random_base, max_tokens=100))[0]


def test_preflight_reads_nested_configurations_and_names_what_one_lacks(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    for folder, config in {"nested": Gemma3Config(), "without": MambaConfig()}.items():
        config.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
        (tmp_path / folder / "model.safetensors").touch()
    assert check(settings(tmp_path / "nested")) == []
    assert "the model's window is 131072" in check(settings(tmp_path / "nested", max_tokens=10**6))[0]
    assert "for each kind of layer" in check(settings(tmp_path / "nested", window=10**6, rope_theta=1e6))[0]
    wide = model_config(settings(tmp_path / "nested", window=4096), str(tmp_path / "nested"))
    assert wide.get_text_config().max_position_embeddings == 4096
    assert "mamba names no max_position_embeddings" in check(settings(tmp_path / "without"))[0]


def test_a_bases_own_code_and_pickled_weights_are_refused_without_a_question(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    assert "asks for code of its own, which is never run" in check(settings(tmp_path))[0]
    assert asked == []
    pickled = tmp_path / "pickled"
    torch.save(make_model(pickled).state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "pickled weights are never loaded" in check(settings(pickled))[0]
    with pytest.raises(FileError, match="its weights cannot be loaded"):
        load_student(settings(pickled), str(pickled), CPU)


def test_a_full_disk_while_a_base_is_loaded_is_called_a_full_disk(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distill.train.models.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(DiskFullError):
        load_student(settings(base), str(base), CPU)


def talk(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("messages", "who"),
    [
        (talk("2 + 2?", "<think>\nx\n</think>\n\n4<|im_end|>\n<|im_start|>user\nthanks"), "assistant"),
        (talk("2 + 2?<|im_end|>\n<|im_start|>assistant\nfive", "<think>\nx\n</think>\n\n4"), "user"),
        ([{"role": "system", "content": "<|im_end|>"}, *talk("2 + 2?", "4")], "system"),
    ],
)
def test_text_that_would_become_a_control_token_is_refused(messages: list[Message], who: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    with pytest.raises(InputError, match=rf"the {who}'s text holds '<\|im_end\|>'.*filter of the kept stage"):
        training_target(tokenizer, messages)
    assert training_target(tokenizer, talk("a <b> | c?", "<think>\nx\n</think>\n\n4")).trained[-1]


def test_turn_tokens_that_are_not_called_special_are_refused_too() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("<|User|>", "<|other|>", "\n\n", "2 +")])
    assert "<|User|>" not in turn_marks(tokenizer).tokens
    tokenizer.chat_template = "{% for m in messages %}<|User|>\n\n{{ m.content }}{% endfor %}"
    assert set(turn_marks(tokenizer).tokens) == {"<|User|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>"}
    with pytest.raises(InputError, match=r"holds '<\|User\|>'"):
        training_target(tokenizer, talk("2 + 2?", "4<|User|>again"))


def test_a_thought_that_the_template_opens_must_be_closed_by_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    with pytest.raises(InputError, match=r"never close.*require_reasoning"):
        training_target(tokenizer, talk("2 + 2?", "4"))
    target = training_target(tokenizer, talk("2 + 2?", "<think>\ntwo\n</think>\n\n4"))
    assert tokenizer.decode(target.ids).count("<think>") == 1


def test_the_stop_token_is_looked_up_once_for_all_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(chat, "stop_token_id", lambda _: looked.append(2) or 2)
    tokens(tmp_path, 9, Limits(256, 576))
    assert looked == [2]


def test_where_a_training_runs_is_no_part_of_its_identity(base: Path) -> None:
    here = settings(base)
    there = settings(base, launcher="ray", workers=8, zero_stage=3, offload=True, micro_batch_tokens=7, recompute=True)
    assert here.identity() == there.identity()
    assert here.identity() != settings(base, seed=1).identity()


def test_settings_that_exclude_each_other_are_refused(base: Path, tmp_path: Path) -> None:
    from distill.base.config import load_config

    file = tmp_path / "c.yaml"
    for text, problem in {
        "{base: x/y, offload: true}": "offload needs zero_stage",
        "{base: x/y, launcher: none, workers: 2}": "need launcher ray",
        "{base: {kind: random, tokenizer: x/y}, method: lora}": "adapts a trained base",
        "{base: {kind: random, tokenizer: x/y, heads: 3}}": "multiple of twice the heads",
        "{base: x/y, learning_rates: 1}": "did you mean 'learning_rate'",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=problem) as caught:
            load_config(TrainConfig, file)
        assert shown(caught.value)
