"""The training loop: what every step sees, what an epoch leaves, and when training ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from kdbench import data
from kdbench.data.views import Views
from kdbench.errors import MethodError
from kdbench.losses.kl import cross_entropy
from kdbench.method import Method, Setup, Step, methods
from kdbench.nets.base import Network, StagedNetwork
from kdbench.nets.cnn import CNN
from kdbench.train.engine import INFERENCE_BATCH
from kdbench.train.loop import Training, logits_of
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task, set_train_mode
from kdbench.train.teachers import LiveTeacher, precision_of

CPU = torch.device("cpu")


def digits(train: int | None = None) -> Task:
    splits = data.load({"name": "digits", "validation": 180} | ({} if train is None else {"train": train}))

    def views(part: data.Labelled, crop: int) -> Views:
        return Views(part.images, crop, False, splits.mean, splits.std)

    return Task(
        views(splits.train, splits.crop), splits.train.labels, views(splits.validation, 0), splits.validation.labels
    )


def noise(n: int) -> Task:
    """`n` images of 4x4 pixels of two classes, with nine views each, that are their own validation split."""
    images = torch.randint(256, (n, 4, 4, 1), dtype=torch.uint8, generator=Generator().manual_seed(0))
    labels = torch.arange(n) % 2
    return Task(Views(images, 1, False, (0.5,), (0.3,)), labels, Views(images, 0, False, (0.5,), (0.3,)), labels)


def small(seed: int = 0, classes: int = 2) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CNN((1, 4, 4), classes, 5, 0.25)


@dataclass(frozen=True)
class Plain(Method):
    """Cross entropy, and whatever a test wants to be called with each step."""

    name = "plain"
    reads = ()
    frozen = ()
    terms: Callable[[Step], dict[str, Tensor]] | None = None

    def loss(self, s: Step) -> dict[str, Tensor]:
        more = {} if self.terms is None else self.terms(s)
        return {"ce": cross_entropy(s.student.logits, s.labels), **more}


def training(
    method: Method | None = None, n: int = 10, net: Network | None = None, seed: int = 3, **recipe: Any
) -> Any:
    settings = {"epochs": 2, "batch_size": 4, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, **recipe}
    return Training(method or Plain(), net or small(), noise(n), Recipe(**settings), seed, "fp32")


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_a_small_network_learns_handwritten_digits() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = CNN((1, 8, 8), 10, 5, 0.5)
    run = Training(methods.get("scratch")(), net, digits(640), Recipe(epochs=6, batch_size=32, lr=0.1), 0, "fp32")
    points = [run.epoch() for _ in range(6)]
    assert points[-1]["val_top1_pct"] > 80  # chance is 10
    assert points[-1]["train_loss"] < points[0]["train_loss"] / 2
    assert run.over


def test_in_every_step_the_student_trains_and_the_teacher_does_not() -> None:
    task, teacher = noise(10), LiveTeacher(small(seed=1), CPU, "fp32")
    before = weights_of(teacher.net)
    run = Training(
        methods.get("kd")(), small(), replace(task, teacher=teacher), Recipe(epochs=2, batch_size=4), 3, "fp32"
    )
    modes: dict[str, list[bool]] = {"student": [], "teacher": []}
    for name, net in (("student", run.student), ("teacher", teacher.net)):
        for module in net.modules():
            module.register_forward_pre_hook(
                lambda module, _, name=name: modes[name].append(module.training) if torch.is_grad_enabled() else None
            )
    teacher.net.register_forward_pre_hook(lambda module, _: modes["teacher"].append(module.training))
    for _ in range(2):  # the second epoch follows an evaluation
        run.epoch()
    assert len(modes["student"]) > 6 and all(modes["student"])
    assert modes["teacher"] == [False] * 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.net.state_dict().items())
    assert not any(p.requires_grad for p in teacher.net.parameters())


@dataclass(frozen=True)
class WithParts(Plain):
    """Reads the student through a module of its own."""

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"probe": nn.Sequential(nn.Linear(setup.student["pooled"][0], 3), nn.BatchNorm1d(3), nn.Linear(3, 2))}

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"own": cross_entropy(s.aux["probe"](s.student.pooled), s.labels)}


def test_a_methods_own_modules_are_optimised_clipped_and_train_their_statistics() -> None:
    run = training(WithParts(), clip_norm=1.0)
    before = weights_of(run.aux)
    optimised = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in run.aux.parameters()} <= optimised
    run.epoch()
    # The bias of a layer before a batch norm has a gradient of rounding errors alone.
    still = [n for n, t in run.aux.state_dict().items() if torch.equal(t, before[n]) and n != "probe.0.bias"]
    assert still == []


class AffineFree(StagedNetwork):
    """A network whose batch norms have no parameters."""

    def __init__(self) -> None:
        block = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU())
        super().__init__(nn.BatchNorm2d(1, affine=False), [block], 3, 2)


@pytest.mark.parametrize("net", [small, AffineFree])
def test_a_linear_probe_changes_the_head_alone_and_no_statistic(net: Callable[[], Network]) -> None:
    run = training(methods.get("linear_probe")(), net=net(), weight_decay=0.1)
    before = weights_of(run.student)
    run.epoch()
    run.epoch()
    changed = {name for name, tensor in run.student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_without_a_frozen_part_the_statistics_of_the_same_network_move() -> None:
    run = training(net=AffineFree())
    before = weights_of(run.student)
    run.epoch()
    assert not torch.equal(run.student.stage1[1].running_mean, before["stage1.1.running_mean"])
    assert not torch.equal(run.student.stem.running_mean, before["stem.running_mean"])


def modes_of(*modules: nn.Module, frozen: str) -> list[bool]:
    """Modes of the parts of a network whose parts with the given numbers are frozen."""
    net = nn.Sequential(*modules)
    for number in frozen:
        net[int(number)].requires_grad_(False)
    set_train_mode(net)
    return [module.training for module in net]


def norm() -> nn.Module:
    return nn.BatchNorm1d(2, affine=False)


@pytest.mark.parametrize(
    ("parts", "frozen", "modes"),
    [
        ([nn.Linear(2, 2), norm(), nn.Linear(2, 2)], "", [True, True, True]),
        ([nn.Linear(2, 2), norm(), nn.Linear(2, 2)], "0", [False, False, True]),
        ([nn.Linear(2, 2), norm(), nn.Linear(2, 2)], "2", [True, True, False]),
        ([norm(), nn.Linear(2, 2), nn.Linear(2, 2)], "1", [False, False, True]),
        ([nn.Linear(2, 2), nn.Linear(2, 2), nn.Dropout()], "0", [False, True, True]),
        ([nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)], "01", [False, False, True]),
        # a probe with its own normalisation before the linear layer, as in MAE, is one part that trains
        ([nn.Linear(2, 2), nn.Sequential(norm(), nn.Linear(2, 2))], "0", [False, True]),
    ],
)
def test_a_part_without_parameters_goes_with_the_part_before_it(
    parts: list[nn.Module], frozen: str, modes: list[bool]
) -> None:
    for part in parts:
        part.requires_grad_(True)
    assert modes_of(*parts, frozen=frozen) == modes


def test_all_that_a_frozen_part_holds_is_in_eval_mode() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Sequential(norm(), nn.Dropout())), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    set_train_mode(net)
    assert not any(module.training for module in net[0].modules())
    assert net[1].training


def test_a_part_that_is_frozen_in_part_is_looked_into() -> None:
    block = nn.Sequential(nn.Linear(2, 2), norm(), nn.Linear(2, 2), norm())
    block[0].requires_grad_(False)
    set_train_mode(nn.Sequential(block, nn.Linear(2, 2)))
    assert [module.training for module in block] == [False, False, True, True]


@pytest.mark.parametrize(("clip", "length"), [(0.01, 0.1 * 0.01), (None, None)])
def test_clipping_limits_the_length_of_a_step(clip: float | None, length: float | None) -> None:
    run = training(epochs=1, batch_size=10, schedule="constant", clip_norm=clip)
    before = [p.detach().clone() for p in run.student.parameters()]
    run.epoch()
    after = [p.detach() for p in run.student.parameters()]
    moved = math.sqrt(sum(float((p - q).square().sum()) for p, q in zip(after, before, strict=True)))
    assert moved == pytest.approx(length, rel=1e-4) if length else moved > 0.01


def rates(run: Any) -> list[float]:
    """Learning rates of all steps of a training."""
    seen: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    while not run.over:
        run.epoch()
    return seen


def test_the_learning_rate_follows_the_schedule_step_by_step() -> None:
    # two steps in each of two epochs: 0.5 (1 + cos(pi t / 2)) at t = 0, 0.5, 1, 1.5
    want = [1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4]
    assert rates(training(n=8, lr=1.0)) == pytest.approx(want)


def test_a_milestone_is_not_missed_by_a_rounding_error() -> None:
    assert 1 / 49 * 49 < 1  # share of training done, times epochs
    run = training(n=4, epochs=49, lr=1.0, schedule="step", milestones=(1, 2), gamma=0.5)
    seen: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    points = [run.epoch() for _ in range(3)]
    assert seen == [1.0, 0.5, 0.25] == [point["lr"] for point in points]


@pytest.mark.parametrize(
    ("n", "batches"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 4]), (3, [3]), (5, [4]), (7, [4, 3]), (2, [2])]
)
def test_a_last_batch_is_used_unless_it_is_a_single_sample(n: int, batches: list[int]) -> None:
    seen: list[Tensor] = []
    run = training(Plain(terms=lambda s: seen.append(s.index) or {}), n=n)
    run.epoch()
    assert [len(index) for index in seen] == batches
    assert len(torch.cat(seen).unique()) == sum(batches), "no sample twice in an epoch"


def test_what_is_left_out_changes_from_epoch_to_epoch() -> None:
    seen: list[Tensor] = []
    run = training(Plain(terms=lambda s: seen.append(s.index) or {}), n=9, epochs=8)
    while not run.over:
        run.epoch()
    epochs = [set(torch.cat(seen[k : k + 2]).tolist()) for k in range(0, 16, 2)]
    assert len({frozenset(set(range(9)) - used) for used in epochs}) > 2


def test_terms_are_logged_as_means_over_the_samples_of_an_epoch() -> None:
    # batches of 4, 4 and 2: the mean over batches would weigh the last two samples double
    run = training(Plain(terms=lambda s: {"place": s.index.float().mean(), "progress": torch.tensor(s.progress)}))
    point = run.epoch()
    assert point["train_loss_place"] == pytest.approx(4.5)
    assert point["train_loss_progress"] == pytest.approx((4 * 0 + 4 * (1 / 6) + 2 * (2 / 6)) / 10)
    total = point["train_loss_ce"] + point["train_loss_place"] + point["train_loss_progress"]
    assert point["train_loss"] == pytest.approx(total, rel=1e-6)
    assert set(run.curves) == set(point)


def test_a_sample_that_is_left_out_does_not_count_in_the_means() -> None:
    assert training(Plain(terms=lambda s: {"one": torch.ones(())}), n=9).epoch()["train_loss_one"] == 1


def test_a_term_that_begins_later_has_its_points_at_the_right_epochs() -> None:
    run = training(Plain(terms=lambda s: {"late": s.progress * torch.ones(())} if s.progress >= 0.5 else {}), epochs=4)
    while not run.over:
        run.epoch()
    late = run.curves["train_loss_late"]
    assert len(late) == 4
    assert [math.isnan(value) for value in late] == [True, True, False, False]


@pytest.mark.parametrize(
    ("terms", "got"), [({}, "got none"), ({"kd": torch.zeros(4)}, r"got kd of shape \(4,\)\. Take mean")]
)
def test_a_loss_that_gives_no_scalars_is_refused(terms: dict[str, Tensor], got: str) -> None:
    @dataclass(frozen=True)
    class Odd(Plain):
        def loss(self, s: Step) -> dict[str, Tensor]:
            return terms

    with pytest.raises(MethodError, match=got):
        training(Odd()).epoch()


def test_a_method_that_trains_nothing_is_refused() -> None:
    @dataclass(frozen=True)
    class Idle(Plain):
        def trains(self, parameter: str, head: str) -> bool:
            return False

    with pytest.raises(MethodError, match="trains no parameter"):
        training(Idle())


def test_a_loss_that_is_not_a_number_ends_the_training_as_diverged() -> None:
    run = training(Plain(terms=lambda s: {"odd": torch.tensor(math.nan if s.progress >= 0.5 else 0.0)}), epochs=4)
    while not run.over:
        run.epoch()
    assert (run.epochs_done, run.diverged) == (3, True)
    assert math.isnan(run.curves["train_loss"][-1])
    assert len(run.curves["val_top1_pct"]) == 2, "a broken network is not evaluated"


def test_a_last_step_that_breaks_the_weights_is_noticed_too() -> None:
    run = training(epochs=1, batch_size=10, lr=1e38)
    point = run.epoch()
    assert math.isfinite(point["train_loss"])
    assert run.diverged


def test_training_ends_at_the_target() -> None:
    run = training(epochs=50, target_top1_pct=0.001)
    run.epoch()
    assert run.over and not run.diverged
    assert not training(epochs=50, target_top1_pct=100).over


def seen_by(method: Method, seed: int = 3, epochs: int = 2, **options: Any) -> list[Tensor]:
    """Index and view of every batch of a training."""
    run = training(method, seed=seed, epochs=epochs, **options)
    inner, seen = run.task.train.batch, []
    run.task.train.batch = lambda index, view: seen.append(torch.stack([index, view])) or inner(index, view)
    while not run.over:
        run.epoch()
    return [batch for batch in seen if len(batch[0]) <= 4]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Drawing(Plain):
    """Draws random numbers of its own, in a module of its own too."""

    def build(self, setup: Setup) -> dict[str, nn.Module]:
        return {"noise": nn.Sequential(nn.Linear(setup.student["pooled"][0], 2), nn.Dropout())}

    def sample(self, index: Tensor, setup: Setup, generator: Generator) -> dict[str, Tensor]:
        return {"other": torch.randint(len(setup.training_labels), (len(index),), generator=generator)}

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"own": cross_entropy(s.aux["noise"](s.student.pooled), s.labels), **super().loss(s)}


def test_two_methods_of_one_seed_see_the_same_order_and_the_same_views() -> None:
    assert same(seen_by(Plain()), seen_by(Drawing()))


def test_another_seed_gives_another_order_and_other_views() -> None:
    one, other = torch.cat(seen_by(Plain()), 1), torch.cat(seen_by(Plain(), seed=4), 1)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_every_epoch_has_another_order_and_other_views() -> None:
    seen = seen_by(Plain())
    one, other = torch.cat(seen[:3], 1), torch.cat(seen[3:], 1)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


class WithDropout(StagedNetwork):
    """A network that draws random numbers while it trains."""

    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5))
        super().__init__(stem, [nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())], 4, 2)


def dropped_out(seed: int = 3) -> tuple[list[float], Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = WithDropout()
    run = training(Drawing(), net=net, seed=seed)
    losses = [run.epoch()["train_loss"] for _ in range(2)]
    return losses, run.student.head.weight.detach()


def test_training_leaves_the_global_random_state_untouched_and_does_not_read_it() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = dropped_out()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = dropped_out()
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])
    assert dropped_out(seed=4)[0] != first[0], "and dropout follows the training's seed"


def test_a_state_is_handed_from_step_to_step_and_not_trained() -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Counting(Plain):
        def init_state(self, setup: Setup) -> dict[str, Tensor]:
            return {"steps": torch.zeros((), dtype=torch.int64)}

        def update(self, s: Step) -> dict[str, Tensor]:
            assert not torch.is_grad_enabled()
            seen.append(int(s.state["steps"]))
            return {"steps": s.state["steps"] + 1}

    run = training(Counting())
    run.epoch()
    run.epoch()
    assert seen == [0, 1, 2, 3, 4, 5]


def test_start_holds_the_weights_of_step_0_and_params_those_of_now() -> None:
    drift: list[float] = []

    def watch(s: Step) -> dict[str, Tensor]:
        drift.append(max(float((s.params[name].detach() - start).abs().max()) for name, start in s.start.items()))
        return {}

    training(Plain(terms=watch)).epoch()
    assert drift[0] == 0
    assert drift[-1] > 0


def test_evaluation_gives_the_mode_back_and_does_not_depend_on_its_batches() -> None:
    net, views = small(), noise(9).validation
    net.train()
    with pytest.MonkeyPatch.context() as patch:
        whole = logits_of(net, views, "fp32")
        patch.setitem(INFERENCE_BATCH, "cpu", 2)
        parts = logits_of(net, views, "fp32")
    assert net.training
    assert torch.allclose(whole, parts, atol=1e-6)


def test_bf16_trains_in_autocast_and_hands_out_float32() -> None:
    types: set[torch.dtype] = set()
    method = Plain(terms=lambda s: types.update({s.student.logits.dtype, s.student.pooled.dtype}) or {})
    run = Training(method, small(), noise(8), Recipe(epochs=1, batch_size=4), 0, "bf16")
    assert math.isfinite(run.epoch()["train_loss"])
    assert types == {torch.float32}
    exact = Training(Plain(), small(), noise(8), Recipe(epochs=1, batch_size=4), 0, "fp32")
    assert exact.epoch()["train_loss"] != run.curves["train_loss"][0]


def cudnn_settings() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True)])
def test_only_fp32_turns_tf32_off_and_nothing_else_and_puts_it_back(
    monkeypatch: pytest.MonkeyPatch, precision: str, tf32: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    enabled, benchmark, deterministic, _ = before = cudnn_settings()
    assert before[3], "torch allows TF32 in convolutions by default"
    with precision_of(CPU, precision), precision_of(CPU, precision):
        assert cudnn_settings() == (enabled, benchmark, deterministic, tf32)
    with pytest.raises(ZeroDivisionError), precision_of(CPU, precision):
        raise ZeroDivisionError
    assert cudnn_settings() == before


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True)])
def test_forward_loss_and_backward_of_a_training_in_fp32_are_without_tf32(precision: str, tf32: bool) -> None:
    seen: dict[str, bool] = {}

    def note(part: str) -> None:
        seen[part] = torch.backends.cudnn.allow_tf32

    @dataclass(frozen=True)
    class Noting(Plain):
        def loss(self, s: Step) -> dict[str, Tensor]:
            note("loss")
            return super().loss(s)

    net = small()
    net.register_forward_hook(lambda *_: note("forward"))
    next(net.parameters()).register_hook(lambda _: note("backward"))
    Training(Noting(), net, noise(8), Recipe(epochs=1, batch_size=4), 0, precision).epoch()
    assert seen.pop("forward") == tf32  # the last forward is that of the validation
    assert seen == {"loss": tf32, "backward": tf32}
    assert torch.backends.cudnn.allow_tf32
